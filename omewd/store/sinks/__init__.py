"""Sinks, where encoded cells go: plain keys (``keys``), or shards in progress (``shards``).

Single chunks of a sharded array go into shards. All other cells are keys.
"""
