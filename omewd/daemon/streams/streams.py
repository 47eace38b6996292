"""The daemon's streams: the open ones, the ended ones, and the release of what they hold."""

from __future__ import annotations

from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.state.journal import Journal
from omewd.daemon.state.kept import KeptRing
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.process.faultpoints import point

KEPT_ENDED_STREAMS = 64
# Their specifications take no more than this together, however large single ones are, except that of the last one.
KEPT_ENDED_BYTES = 16 << 20


class Streams:
    """All streams. ``open``: by id. ``ended``: the last ones that ended, by name.

    ``kept``: by name, the rings of the last daemon that could not be taken over. They count in the memory budget, and
    no other stream may replace their datasets. ``is_closed``: the daemon is stopping and takes no new streams.
    ``agenda``: which of them the next turn of the loop looks at.
    """

    def __init__(self, journal: Journal, datasets: Datasets, agenda: Agenda, memory: MemoryReturn) -> None:
        self._journal, self._datasets, self.agenda, self._memory = journal, datasets, agenda, memory
        self._last_id = 0
        self.is_closed = False
        self.open: dict[int, Stream] = {}
        self.kept: dict[str, KeptRing] = {}
        self.ended: dict[str, Stream] = {}

    @property
    def copies(self) -> Copies:
        """The copies of their datasets."""
        return self._datasets.copies

    # -- looking up ----------------------------------------------------------------------------

    def named(self, name: object, number: object = None) -> Stream:
        """The open stream with this name, else the last ended one; with ``number``, the stream with that id.

        Raises OmewdError ``unknown_stream``.
        """
        if number is not None:
            every = (*self.open.values(), *self.ended.values())
            stream = next((each for each in every if each.id == number), None)
        else:
            stream = self.open_named(name) or self.ended.get(str(name))
        if stream is None:
            names = ", ".join(sorted(each.name for each in self.open.values())) or "none"
            raise OmewdError(
                "unknown_stream", f"there is no stream {str(name)[:80]!r} (open: {names})", "See omewd status"
            )
        return stream

    def open_named(self, name: object) -> Stream | None:
        return next((stream for stream in self.open.values() if stream.name == name), None)

    def close(self) -> None:
        """Take no new streams, because the daemon is stopping."""
        self.is_closed = True

    def is_open(self, stream: Stream) -> bool:
        return stream.id in self.open

    def look_at(self, stream: Stream) -> None:
        """Let the next turn of the loop look at a stream and all of its sources."""
        self.agenda.sources(stream.id, range(len(stream.sources)))

    def due(self, now_ns: int) -> list[tuple[Stream, set[int]]]:
        """The open streams to look at now, each with the numbers of the sources to look at."""
        if places := self.agenda.take_places():
            for stream in self.open.values():
                if stream.dataset.path in places:
                    self.agenda.stream(stream.id)
        return self._opened(self.agenda.take(now_ns))

    def listening(self) -> list[tuple[Stream, set[int]]]:
        """The open streams of which some sources, by their numbers, must ask their producers to ring."""
        return self._opened(self.agenda.take_listening())

    def _opened(self, numbers: dict[int, set[int]]) -> list[tuple[Stream, set[int]]]:
        return [(self.open[number], sources) for number, sources in numbers.items() if number in self.open]

    def free_name(self, after: int = 0) -> tuple[str, int]:
        """The first unused name of stream1, stream2, … with a number above ``after``, and its number."""
        taken = {stream.name for stream in self.open.values()} | set(self.ended) | set(self.kept)
        number = after + 1
        while f"stream{number}" in taken:
            number += 1
        return f"stream{number}", number

    # -- coming and going ----------------------------------------------------------------------

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def count_from(self, number: int) -> None:
        """Use no ids up to ``number``, so that no new ring gets the name of an old one."""
        self._last_id = max(self._last_id, number)

    def add(self, stream: Stream) -> None:
        self.open[stream.id] = stream
        self.look_at(stream)

    def keep(self, kept: KeptRing) -> None:
        """Keep rings of the last daemon that can't be taken over."""
        self.kept[kept.name] = kept

    def forget_kept(self, name: str) -> KeptRing:
        return self.kept.pop(name)

    def leave(self, stream: Stream) -> None:
        """Close an open stream, but leave its rings and its journal entry to the next daemon."""
        del self.open[stream.id]
        stream.close_rings()

    def discard(self, stream: Stream) -> None:
        """Release everything that an open stream holds, and forget it."""
        del self.open[stream.id]
        stream.disowned()
        self._memory.close_last(stream.remove_rings())
        point("daemon: ring removed")
        if (left := stream.dataset.left_to_do) is not None:  # the entry stays until that is done
            self._journal.set_apart(stream.name, left, stream.epoch)
        else:
            self._journal.remove(stream.name, stream.epoch)

    def release(self, stream: Stream) -> None:
        """Release an ended stream's rings, and keep the stream for the status."""
        self._datasets.copy_rest(stream.dataset)
        self.discard(stream)
        stream.settle()
        self._forget_ended(stream.name)
        self.ended[stream.name] = stream
        held_bytes = sum(spec_bytes(each) for each in self.ended.values())
        while len(self.ended) > KEPT_ENDED_STREAMS or (held_bytes > KEPT_ENDED_BYTES and len(self.ended) > 1):
            oldest = next(iter(self.ended.values()))
            held_bytes -= spec_bytes(oldest)
            self._forget_ended(oldest.name)

    def _forget_ended(self, name: str) -> None:
        if (stream := self.ended.pop(name, None)) is not None:
            self._datasets.forget(stream.dataset)


def spec_bytes(stream: Stream) -> int:
    """The size of a stream's specification, about as JSON."""
    return len(str(stream.fields)) + len(stream.details)
