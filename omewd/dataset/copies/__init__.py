"""The record of what was copied where."""
