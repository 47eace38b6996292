"""Commands that run a daemon or show what it can do."""
