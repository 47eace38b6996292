"""Jobs: which child gets which one, and who is told of the results."""
