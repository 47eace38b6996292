"""Metadata that clients give a dataset while it is written, and afterwards: one value after the other. Pure."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from omewd.daemon.control.server import Peer
from omewd.daemon.jobs.tasks import Task
from omewd.errors import OmewdError
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata

_NAMESPACE = re.compile(r"[^\s/]{1,128}")
# What omewd writes itself.
_RESERVED = ("ome", "omewd", ".", "..")
_MOST_WAITING = 64


Envelope = tuple[str, int | str | None, str | None]


def check(namespace: object, value: bytes, position: object, well: object) -> Envelope:
    """Look at what a client gives but for the value, which a writer looks at; returns (namespace, position, well).

    Raises OmewdError ``bad_metadata``.
    """
    is_name = isinstance(namespace, str) and namespace.isprintable() and bool(_NAMESPACE.fullmatch(namespace))
    if not isinstance(namespace, str) or not is_name or namespace in _RESERVED:
        raise OmewdError(
            "bad_metadata",
            f"{str(namespace)[:80]!r} can't be a namespace: 1 to 128 characters without spaces and slashes, "
            f"and none of {', '.join(map(repr, _RESERVED))}",
            "Use a name of your own, such as that of your program",
        )
    if not value:
        raise OmewdError("bad_metadata", "metadata comes as JSON in sealed memory, attached to the request")
    if not isinstance(position, int | str | None) or not isinstance(well, str | None):
        raise OmewdError("bad_metadata", "a position is a name or a number, and a well a name", "Such as `well='B/3'`")
    return namespace, position, well


@dataclass(eq=False)
class Value:
    """What is to be put into a dataset's metadata by ``job``.

    ``peer``: who gives it, None for the daemon itself; ``task``: its job once it has been submitted.
    """

    job: PutUserMetadata | PutContrast
    peer: Peer | None
    task: Task | None = None

    def submitted(self, task: Task) -> None:
        self.task = task

    def withdrawn(self) -> None:
        """Its job will not be run, and it waits again."""
        self.task = None


@dataclass
class UserMetadata:
    """The values that wait for one dataset, in their order; only of the first a job may be out."""

    _values: deque[Value] = field(default_factory=deque)

    @property
    def first(self) -> Value | None:
        return self._values[0] if self._values else None

    @property
    def is_out(self) -> bool:
        """Whether a job has been submitted."""
        return bool(self._values) and self._values[0].task is not None

    def add(self, value: Value) -> None:
        """Raises OmewdError ``busy`` for a client's value; the daemon gives one of its own."""
        if value.peer is not None and len(self._values) >= _MOST_WAITING:
            raise OmewdError("busy", f"{len(self._values)} values wait for this dataset already", "Try again later")
        self._values.append(value)

    def take_all(self) -> list[Value]:
        """Take out all that wait."""
        taken = list(self._values)
        self._values.clear()
        return taken

    def remove(self, value: Value) -> bool:
        """Take out a value that has been dealt with; False if it was taken out before."""
        if value not in self._values:
            return False
        self._values.remove(value)
        return True
