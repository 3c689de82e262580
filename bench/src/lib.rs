//! Side-by-side benchmarks and the generators that feed them.
