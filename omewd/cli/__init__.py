"""The ``omewd`` command: one small file a command, imported when it is called."""
