"""Reports a benchmark's results as tables, JSON and plots."""
