"""Runs in the camera process and puts frames into the ring. Needs only numpy and the standard library."""
