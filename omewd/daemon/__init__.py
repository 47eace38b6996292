"""Runs in ``omewd serve``: one loop that owns the rings, gives out jobs and watches writers. It touches no pixels."""
