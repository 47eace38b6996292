"""The ledger: what became of every frame."""
