//! Text to a document with spans, and back.
