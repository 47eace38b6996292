"""What omewd's processes share: lifeline, locks, fault points, profiling."""
