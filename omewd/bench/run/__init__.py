"""The processes that a benchmark runs."""
