"""The ring, shared memory between a producer, the daemon and the writers: its layout and its cursors."""
