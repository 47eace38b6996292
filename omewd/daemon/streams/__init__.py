"""Streams: acquisitions that are going on."""
