"""A dataset on disk: metadata, ledger, verify, repair."""
