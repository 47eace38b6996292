"""The ledger, which records what became of every frame."""
