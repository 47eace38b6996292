"""Commands that run the daemon, or tell what it has."""
