"""Metadata that clients give a dataset while it is written, and afterwards: one job at a time for each dataset."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.streams.stream import State, Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.jobs.job import Job, Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata

_NAMESPACE = re.compile(r"[^\s/]{1,128}")
# What omewd writes itself.
_RESERVED = ("ome", "omewd", ".", "..")
_MOST_WAITING = 64


@dataclass(eq=False)
class _Wish:
    """The owner of the job that does it. ``peer`` None: the daemon's own, of windows; ``task`` None: it waits."""

    annotations: Annotations
    peer: Peer | None
    stream: Stream
    namespace: str = ""
    text: bytes = b""
    position: int | str | None = None
    well: str | None = None
    task: Task | None = None

    @property
    def job(self) -> Job:
        dataset, epoch = str(self.stream.dataset), self.stream.epoch
        if not self.namespace:
            return PutContrast(dataset, epoch, self.stream.contrast.windows)
        return PutUserMetadata(dataset, epoch, self.namespace, self.position, self.well, self.text)

    @property
    def waits_for_space(self) -> bool:
        return False

    def job_done(self, _task: Task, _result: Result, _now_ns: int) -> None:
        self.annotations.ended(self, None)

    def job_put_back(self, _task: Task, _error: OmewdError, _now_ns: int) -> None:
        if not self.stream.settled:
            self.stream.retries += 1

    def job_failed(self, _task: Task, error: OmewdError, _now_ns: int) -> None:
        self.annotations.ended(self, error)


class Annotations:
    """Each client is answered when what it gave is on disk, or can't be."""

    def __init__(self, streams: Streams, dispatcher: Dispatcher, server: ControlServer) -> None:
        self._streams, self._dispatcher, self._server = streams, dispatcher, server
        self._wishes: dict[Path, deque[_Wish]] = {}

    def add(
        self,
        peer: Peer,
        stream: Stream,
        namespace: object,
        text: bytes,
        position: object = None,
        well: object = None,
    ) -> None:
        """Take what a client gives, a value as JSON, of a position or a well; a writer looks at it.

        Raises OmewdError ``bad_metadata``, ``busy``.
        """
        is_name = isinstance(namespace, str) and namespace.isprintable() and bool(_NAMESPACE.fullmatch(namespace))
        if not isinstance(namespace, str) or not is_name or namespace in _RESERVED:
            raise OmewdError(
                "bad_metadata",
                f"{str(namespace)[:80]!r} can't be a namespace: 1 to 128 characters without spaces and slashes, "
                f"and none of {', '.join(map(repr, _RESERVED))}",
                "Use a name of your own, such as that of your program",
            )
        if not text:
            raise OmewdError("bad_metadata", "metadata comes as JSON in sealed memory, attached to the request")
        if not isinstance(position, int | str | None) or not isinstance(well, str | None):
            raise OmewdError(
                "bad_metadata", "a position is a name or a number, and a well a name", "Such as `well='B/3'`"
            )
        waiting = self._wishes.setdefault(stream.dataset, deque())
        if len(waiting) >= _MOST_WAITING:
            raise OmewdError("busy", f"{len(waiting)} values wait for this dataset already", "Try again later")
        waiting.append(_Wish(self, peer, stream, namespace, text, position, well))
        self.step(stream)

    def show_contrast(self, stream: Stream) -> None:
        """Put the windows of a stream's channels into its dataset."""
        self._wishes.setdefault(stream.dataset, deque()).append(_Wish(self, None, stream))
        self.step(stream)

    def step(self, stream: Stream) -> None:
        """Go on with the dataset of a stream, if nothing else may be writing its metadata now."""
        waiting = self._wishes.get(stream.dataset)
        if not waiting or waiting[0].task is not None:
            return
        wish = waiting[0]
        of = wish.stream
        replaced_by = next((o for o in self._open() if o.dataset == of.dataset and o is not of), None)
        if replaced_by is not None:
            self._answer(
                wish, OmewdError("unknown_stream", f"its dataset is replaced by stream {replaced_by.spec.name!r}")
            )
            return
        if not of.settled and of.state not in (State.ACTIVE, State.DRAINING):
            return
        wish.task = self._dispatcher.submit(wish.job, wish)

    def _open(self) -> Iterator[Stream]:
        return (h.stream for h in self._streams.open.values() if not h.stream.settled)

    def is_writing(self, stream: Stream) -> bool:
        """Whether a job is out for the dataset of a stream."""
        waiting = self._wishes.get(stream.dataset)
        return waiting is not None and waiting[0].task is not None

    def ended(self, wish: _Wish, error: OmewdError | None) -> None:
        """A job has done it, or has had its tries."""
        if wish in self._wishes.get(wish.stream.dataset, ()):
            self._answer(wish, error)

    def _answer(self, wish: _Wish, error: OmewdError | None) -> None:
        """Tell who asked, and go on with the next."""
        waiting = self._wishes[wish.stream.dataset]
        waiting.remove(wish)
        if wish.peer is None:
            pass  # the end of the stream makes up for it
        elif error is None:
            self._server.reply(wish.peer, {})
        else:
            self._server.reply_error(wish.peer, error)
        if waiting:
            self.step(waiting[0].stream)
        else:
            del self._wishes[wish.stream.dataset]

    def forget(self, stream: Stream) -> None:
        """A stream has failed: its job that no child has yet is not run, and asked for again once it is settled."""
        waiting = self._wishes.get(stream.dataset)
        if waiting and waiting[0].stream is stream and not stream.settled:
            self._dispatcher.forget(waiting[0])
            if not self._dispatcher.is_busy(waiting[0]):
                waiting[0].task = None

    def discarded(self, stream: Stream) -> None:
        """A stream never started: there is no dataset of it."""
        for wish in [wish for wish in self._wishes.get(stream.dataset, ()) if wish.stream is stream]:
            self._answer(wish, OmewdError("unknown_stream", "the stream did not start"))
