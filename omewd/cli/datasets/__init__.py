"""Commands about datasets on disk."""
