"""What a restart needs: the journal, and recovery from it."""
