"""What the machine can do without omewd."""
