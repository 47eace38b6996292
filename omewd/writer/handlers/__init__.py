"""What a writer does for each kind of job: one handler a kind, thin over store and dataset."""
