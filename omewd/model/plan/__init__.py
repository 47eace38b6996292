"""What a specification implies: write units, shards, levels, images, memory."""
