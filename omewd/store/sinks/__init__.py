"""Sinks: where encoded cells go. Plain keys (``keys``), or shards in progress (``shards``).

An encoder that makes single chunks fills shards where the array has some; all else are keys.
"""
