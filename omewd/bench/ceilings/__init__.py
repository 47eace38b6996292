"""Measures what the machine can do without omewd."""
