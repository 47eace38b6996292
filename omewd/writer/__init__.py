"""Runs in the writer processes: reads frames out of the ring and puts them on disk."""
