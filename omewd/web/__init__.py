"""``omewd web``: a process that shows daemons and their streams over HTTP, read-only. No daemon knows of it."""
