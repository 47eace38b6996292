"""Turns what other programs describe and acquire into streams. Each module serves one program."""
