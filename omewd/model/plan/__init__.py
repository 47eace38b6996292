"""What follows from a specification: write units, shards, levels, images, memory."""
