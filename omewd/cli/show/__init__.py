"""Shows figures in the terminal."""
