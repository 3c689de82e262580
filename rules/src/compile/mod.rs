//! Policy to classifier.
