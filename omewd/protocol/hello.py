"""The hello of a control connection: the protocol version of each side, and the daemon's operations.

A client sends its hello before its first request, without waiting for the answer. A connection without a hello uses
version 1.0, on which programs in other languages may rely. Only the major version matters.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.protocol.versions import CONTROL, Version

# The operations of this version's daemon.
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
    "wait_copy",
    "watch",
    "set_metadata",
)


@dataclass(frozen=True)
class Hello(Record):
    """A client's hello: its protocol version, its kind ("client", "producer", "viewer") and its version of omewd."""

    version: str = "1.0"
    kind: str = "client"
    omewd: str = ""


@dataclass(frozen=True)
class Welcome(Record):
    """The daemon's answer. ``features``: its operations."""

    version: str = "1.0"
    omewd: str = ""
    features: tuple[str, ...] = ()


def require_same_major(version: str, whose: str, omewd: str) -> None:
    """Raise OmewdError ``other_version`` if the protocol of the other side (``whose``) is incompatible."""
    told = Version.parse(version)
    if told is None or not CONTROL.reads(told):
        raise OmewdError(
            "other_version",
            f"{whose} (omewd {omewd[:40] or 'of unknown version'}) speaks version {version[:40]} of the control "
            f"protocol, but this side speaks version {CONTROL}",
        )
