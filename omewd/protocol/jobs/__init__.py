"""The jobs that the daemon gives its children, and their results: a small frozen type for each kind."""
