"""Runs in the writer processes, which read frames from the ring and put them on disk."""
