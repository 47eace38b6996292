"""Puts bytes on disk: encoders turn pixels into the bytes of chunks, and sinks put keys in their places."""
