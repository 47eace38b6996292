"""A writer's handlers, one for each kind of job. They are thin layers over store and dataset."""
