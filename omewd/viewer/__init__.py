"""Runs in any process that wants to look: frames out of a ring, and out of the dataset, while it is written."""
