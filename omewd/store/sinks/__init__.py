"""Sinks: files of a dataset, and shards in progress."""
