"""Copies of datasets that are parts of one acquisition, recorded by several daemons, into one dataset in a store.

No daemon talks to another one: all they know of each other is what they find in the store.
"""
