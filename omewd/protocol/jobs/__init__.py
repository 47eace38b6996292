"""What the daemon asks of its children and what they answer: a small frozen type for each kind of job."""
