"""What the tests share, one subject a file."""
