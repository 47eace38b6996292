"""What is wrong with what the daemon does, or with the machine: pure judgement, and the reading of the machine."""
