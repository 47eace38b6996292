"""Things that are costly to open and that several requests use at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
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
        self._drop(lambda each: each == key)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forget all others."""
        self._drop(lambda each: each not in keys)

    def close(self) -> None:
        self._drop(lambda _: True)

    def _drop(self, is_over: Callable[[Hashable], bool]) -> None:
        with self._lock:
            out = [self._kept.pop(key) for key in [*self._kept] if is_over(key)]
            unused = [entry for entry in out if not entry.users]  # the last user closes the others
        for entry in unused:
            entry.thing.close()

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
            unused = [each for each in out if not each.users]
        if entry is not new:  # another thread was faster
            unused.append(new)
        for each in unused:
            each.thing.close()
        return entry

    def _release(self, key: Hashable, entry: _Entry[T]) -> None:
        with self._lock:
            entry.users -= 1
            is_over = not entry.users and self._kept.get(key) is not entry
        if is_over:
            entry.thing.close()
