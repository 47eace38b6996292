"""What a benchmark found, as tables, JSON and plots."""
