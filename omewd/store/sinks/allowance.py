"""Bounds what all batches of a writer have open together."""

from __future__ import annotations

import threading


class Allowance:
    """``most``: how many things all holders may have together. A holder that is alone may have more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._taken = 0

    def take(self, has: int) -> None:
        """Take one, once others have given enough back. ``has``: how many the caller holds. One caller at a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken < self._most or self._taken == has)
            self._taken += 1

    def give_back(self, count: int) -> None:
        with self._changed:
            self._taken -= count
            self._changed.notify_all()
