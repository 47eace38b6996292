"""Runs in the camera process: puts frames into the ring. Needs numpy and the standard library only."""
