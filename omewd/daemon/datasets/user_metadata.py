"""Queues the metadata that clients give a dataset during its stream and afterwards, one value at a time. Pure."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from omewd.daemon.control.server import Peer
from omewd.daemon.jobs.tasks import Task
from omewd.errors import OmewdError
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata

_NAMESPACE = re.compile(r"[^\s/]{1,128}")
# Names that omewd itself uses.
_RESERVED = ("ome", "omewd", ".", "..")
_MOST_WAITING = 64


Envelope = tuple[str, int | str | None, str | None]


def check(namespace: object, value: bytes, position: object, well: object) -> Envelope:
    """Check a client's request, except the value, which a writer checks; returns (namespace, position, well).

    Raises OmewdError ``bad_metadata``.
    """
    is_name = isinstance(namespace, str) and namespace.isprintable() and bool(_NAMESPACE.fullmatch(namespace))
    if not isinstance(namespace, str) or not is_name or namespace in _RESERVED:
        raise OmewdError(
            "bad_metadata",
            f"{str(namespace)[:80]!r} can't be a namespace: it must have 1 to 128 characters without spaces and "
            f"slashes, and can't be {' or '.join(map(repr, _RESERVED))}",
            "Use a name of your own, such as your program's",
        )
    if not value:
        raise OmewdError("bad_metadata", "metadata must be attached to the request, as JSON in sealed memory")
    if isinstance(position, bool) or not isinstance(position, int | str | None) or not isinstance(well, str | None):
        raise OmewdError(
            "bad_metadata", "a position must be a name or a number, and a well a name", "Give them as in `well='B/3'`"
        )
    return namespace, position, well


@dataclass(eq=False)
class Value:
    """A value that ``job`` puts into a dataset's metadata.

    ``peer``: the client that gave it, None for the daemon itself. ``task``: set once the job is submitted.
    """

    job: PutUserMetadata | PutContrast
    peer: Peer | None
    task: Task | None = None

    def submitted(self, task: Task) -> None:
        self.task = task

    def withdrawn(self) -> None:
        """Note that the job has ended, or will not run."""
        self.task = None


@dataclass
class UserMetadata:
    """The values that wait for one dataset, in order. Only the first one may have a running job."""

    _values: deque[Value] = field(default_factory=deque)

    @property
    def first(self) -> Value | None:
        return self._values[0] if self._values else None

    @property
    def is_out(self) -> bool:
        """Whether the first value's job has been submitted."""
        return bool(self._values) and self._values[0].task is not None

    def add(self, value: Value) -> None:
        """Add a value. Raises OmewdError ``busy`` if too many wait; the daemon's own one is always taken."""
        if value.peer is not None and len(self._values) >= _MOST_WAITING:
            raise OmewdError("busy", f"{len(self._values)} values already wait for this dataset", "Try again later")
        self._values.append(value)

    def take_all(self) -> list[Value]:
        """Remove and return all values."""
        taken = list(self._values)
        self._values.clear()
        return taken

    def remove(self, value: Value) -> bool:
        """Remove a finished value; returns False if it was removed before."""
        if value not in self._values:
            return False
        self._values.remove(value)
        return True
