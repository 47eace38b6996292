"""What crosses process borders: messages, jobs, addresses."""
