"""What users say of a stream: its specification, checked."""
