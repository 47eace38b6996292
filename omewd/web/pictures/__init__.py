"""Pictures of frames: which one is meant, and how it is drawn."""
