"""The formats of files: array documents, shard indexes, tables of shards in progress."""
