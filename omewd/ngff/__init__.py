"""OME-Zarr 0.5 metadata, the frame ledger, and reading a dataset back to verify it."""
