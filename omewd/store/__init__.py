"""Bytes to disk: encoders turn pixels into the bytes of chunks, sinks put keys where they belong."""
