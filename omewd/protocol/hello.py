"""The hello of a control connection: which version of the protocol each side speaks, and what the daemon can do.

A client says it first, together with its first request. A connection without a hello speaks version 1.0, which a
program in another language may rely on. Only the major version decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.protocol.versions import CONTROL, Version

# What a daemon of this version can be asked for: the operations by name.
FEATURES = (
    "status",
    "start_stream",
    "stop_stream",
    "resume_stream",
    "attach",
    "reattach",
    "view",
    "finish",
    "wait",
    "set_metadata",
)


@dataclass(frozen=True)
class Hello(Record):
    """A client's hello: the version of its protocol, what it is ("client", "producer", "viewer"), its omewd."""

    version: str = "1.0"
    kind: str = "client"
    omewd: str = ""


@dataclass(frozen=True)
class Welcome(Record):
    """The daemon's answer. ``features``: the operations that it has."""

    version: str = "1.0"
    omewd: str = ""
    features: tuple[str, ...] = ()


def require_same_major(version: str, whose: str, omewd: str) -> None:
    """Raise OmewdError ``other_version`` if the other side's protocol can't be spoken; ``whose``: the other side."""
    told = Version.parse(version)
    if told is None or not CONTROL.reads(told):
        raise OmewdError(
            "other_version",
            f"{whose} (omewd {omewd[:40] or 'of unknown version'}) speaks version {version[:40]} of the control "
            f"protocol, this side speaks version {CONTROL}",
        )
