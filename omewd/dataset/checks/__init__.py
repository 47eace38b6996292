"""What verifying a dataset finds, and how its write units are checked."""
