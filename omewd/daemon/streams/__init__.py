"""Streams: the acquisitions in progress."""
