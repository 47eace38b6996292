"""Jobs: who gets which, and what follows."""
