"""What every process of omewd has: lifeline, locks, fault points, profiling."""
