"""What the next turn of the daemon's loop has to look at. Pure: time is passed in.

A turn costs what has happened since the last one. Whatever happens to a stream or one of its sources is noted here: a
producer rings, a job ends, a client asks, a time has come. What is not noted is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from pathlib import Path


class Agenda:
    """Streams are named by their ids, sources by their numbers."""

    def __init__(self) -> None:
        self._due: dict[int, set[int]] = {}
        self._listening: dict[int, set[int]] = {}
        self._places: set[Path] = set()
        self._times: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    # -- what happens --------------------------------------------------------------------------

    def stream(self, stream: int) -> None:
        """Look at a stream, but at none of its sources."""
        self._due.setdefault(stream, set())

    def source(self, stream: int, source: int) -> None:
        """Look at a stream and one of its sources."""
        self._due.setdefault(stream, set()).add(source)

    def sources(self, stream: int, sources: Iterable[int]) -> None:
        """Look at a stream and several of its sources."""
        self._due.setdefault(stream, set()).update(sources)

    def place(self, path: Path) -> None:
        """Look at the streams with a dataset at this path."""
        self._places.add(path)

    def at(self, stream: int, time_ns: int | None) -> None:
        """Look at a stream at this time, in place of an earlier choice; at None, at no time."""
        if time_ns is None:
            self._times.pop(stream, None)
        elif self._times.get(stream) != time_ns:
            self._times[stream] = time_ns
            heappush(self._heap, (time_ns, stream))

    def listen(self, stream: int, source: int) -> None:
        """Ask a source's producer to ring, at the end of the turn. Its next unit may be another one now."""
        self._listening.setdefault(stream, set()).add(source)

    # -- the turn ------------------------------------------------------------------------------

    def take(self, now_ns: int) -> dict[int, set[int]]:
        """The streams to look at now, each with the sources to look at. They are asked to ring again afterwards."""
        while (next_ns := self.next_ns) is not None and next_ns <= now_ns:
            _, stream = heappop(self._heap)
            del self._times[stream]
            self.stream(stream)
        taken, self._due = self._due, {}
        for stream, sources in taken.items():
            if sources:
                self._listening.setdefault(stream, set()).update(sources)
        return taken

    def take_places(self) -> set[Path]:
        """The paths whose datasets' streams are to be looked at."""
        taken, self._places = self._places, set()
        return taken

    def take_listening(self) -> dict[int, set[int]]:
        """The sources whose producers are to be asked to ring."""
        taken, self._listening = self._listening, {}
        return taken

    @property
    def has_more(self) -> bool:
        """Whether there is something to look at already."""
        return bool(self._due or self._places)

    @property
    def next_ns(self) -> int | None:
        """The next time at which a stream is to be looked at; None if there is none."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # another time was chosen since
        return self._heap[0][0] if self._heap else None
