"""Things that are costly to open and that several requests use at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class _Entry(Generic[T]):
    def __init__(self, thing: T) -> None:
        self.thing, self.users = thing, 0


class Shared(Generic[T]):
    """Keeps the things that were used last, at most ``most``. Each is closed once it is neither kept nor used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, key: Hashable, open_it: Callable[[], T]) -> Iterator[T]:
        """Use the thing of a key, which is opened if it is not there. Raises whatever ``open_it`` raises."""
        entry = self._take(key) or self._add(key, _Entry(open_it()))
        try:
            yield entry.thing
        finally:
            self._release(key, entry)

    def forget(self, key: Hashable) -> None:
        """Open it anew the next time, because it is out of date."""
        with self._lock:
            entry = self._kept.pop(key, None)
        self._close_unused([entry] if entry else [])

    def close(self) -> None:
        with self._lock:
            entries = list(self._kept.values())
            self._kept.clear()
        self._close_unused(entries)

    def _take(self, key: Hashable) -> _Entry[T] | None:
        with self._lock:
            if (entry := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                entry.users += 1
            return entry

    def _add(self, key: Hashable, new: _Entry[T]) -> _Entry[T]:
        with self._lock:
            entry = self._kept.setdefault(key, new)
            entry.users += 1
            out = [self._kept.popitem(last=False)[1] for _ in range(len(self._kept) - self._most)]
        if entry is not new:  # another thread was faster
            new.thing.close()
        self._close_unused(out)
        return entry

    def _release(self, key: Hashable, entry: _Entry[T]) -> None:
        with self._lock:
            entry.users -= 1
            is_over = not entry.users and self._kept.get(key) is not entry
        if is_over:
            entry.thing.close()

    def _close_unused(self, entries: list[_Entry[T]]) -> None:
        """Close entries that are no longer kept; the last user closes the others."""
        for entry in entries:
            with self._lock:
                is_over = not entry.users
            if is_over:
                entry.thing.close()
