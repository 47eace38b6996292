"""What crosses process borders: messages, jobs, status, addresses, versions."""
