"""Metadata that clients give a dataset while it is written, and afterwards: one job at a time for each dataset."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omewd.control.jobs import NO_STREAM, Job
from omewd.daemon.dispatcher import Dispatcher
from omewd.daemon.server import ControlServer, Peer
from omewd.daemon.stream import State, Stream
from omewd.errors import OmewdError

_NAMESPACE = re.compile(r"[^\s/]{1,128}")
# What omewd writes itself.
_RESERVED = ("ome", "omewd")
_MOST_WAITING = 64


@dataclass
class _Wish:
    """``job``: the id of the job that does it, None while it waits."""

    peer: Peer
    stream: Stream
    namespace: str
    mapping: dict[str, Any]
    job: int | None = None


class Annotations:
    """Each client is answered when what it gave is on disk, or can't be."""

    def __init__(self, dispatcher: Dispatcher, server: ControlServer) -> None:
        self._dispatcher, self._server = dispatcher, server
        self._wishes: dict[Path, deque[_Wish]] = {}

    def add(self, peer: Peer, stream: Stream, namespace: object, mapping: object) -> None:
        """Take what a client gives; raises OmewdError ``bad_metadata``, ``busy``."""
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace) or namespace in _RESERVED:
            raise OmewdError(
                "bad_metadata",
                f"{str(namespace)[:80]!r} can't be a namespace: 1 to 128 characters without spaces and slashes, "
                f"and not {' or '.join(_RESERVED)}",
                "Use a name of your own, such as that of your program",
            )
        if not isinstance(mapping, dict):
            raise OmewdError("bad_metadata", f"metadata is a mapping, this is a {type(mapping).__name__}")
        waiting = self._wishes.setdefault(stream.dataset, deque())
        if len(waiting) >= _MOST_WAITING:
            raise OmewdError("busy", f"{len(waiting)} mappings wait for this dataset already", "Try again later")
        waiting.append(_Wish(peer, stream, namespace, mapping))
        self.step(stream)

    def step(self, stream: Stream) -> None:
        """Go on with a dataset if nothing else may be writing its metadata now."""
        waiting = self._wishes.get(stream.dataset)
        may_write = stream.settled or stream.state in (State.ACTIVE, State.DRAINING)
        if not waiting or waiting[0].job is not None or not may_write:
            return
        wish = waiting[0]
        wish.job = self._dispatcher.number()
        job = Job(
            id=wish.job,
            stream=NO_STREAM if stream.settled else stream.id,
            kind="annotate",
            dataset=str(stream.dataset),
            namespace=wish.namespace,
            mapping=wish.mapping,
        )
        self._dispatcher.submit(job)

    def ended(self, job: Job, error: OmewdError | None = None) -> None:
        """A job has done it, or has had its tries."""
        waiting = self._wishes.get(Path(job.dataset))
        if not waiting or waiting[0].job != job.id:
            return
        wish = waiting.popleft()
        if not waiting:
            del self._wishes[Path(job.dataset)]
        if error is None:
            self._server.reply(wish.peer, {})
        else:
            self._server.reply_error(wish.peer, error)
        self.step(waiting[0].stream if waiting else wish.stream)

    def forgotten(self, jobs: Iterable[int]) -> None:
        """Jobs that will not be run, as their stream has failed: they are asked for again once it is settled."""
        gone = set(jobs)
        for waiting in self._wishes.values():
            if waiting[0].job in gone:
                waiting[0].job = None

    def discarded(self, stream: Stream) -> None:
        """A stream never started: there is no dataset."""
        for wish in self._wishes.pop(stream.dataset, ()):
            self._server.reply_error(wish.peer, OmewdError("unknown_stream", "the stream did not start"))
