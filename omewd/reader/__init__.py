"""Frames by index, of a stream or of a dataset."""
