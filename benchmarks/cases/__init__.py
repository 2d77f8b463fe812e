"""Problems that the benchmarks share."""
