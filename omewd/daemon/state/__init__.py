"""What a restart needs: the journal, and going on from it."""
