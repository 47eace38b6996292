"""``omewd web``: a process that shows daemons and their streams over HTTP, read-only. The daemon knows nothing of it."""
