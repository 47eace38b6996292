"""What is in the files: array documents, shard indexes, tables of shards in progress."""
