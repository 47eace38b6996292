"""The configuration of ``omewd serve``, and numbers that nobody should have to set."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omewd.errors import OmewdError

# A job may take this long, and another second for each 5 MB, which is slower than any disk that one would record to.
JOB_TIMEOUT_S = 60.0
SLOWEST_DISK_BYTES_PER_S = 5_000_000

# A writer imports its libraries in half a second, but takes longer on a machine that is booting.
START_TIMEOUT_S = 60.0

# The size of a ring if memory allows: half a second at 1 GB/s, the longest stall seen on a busy disk.
RING_TARGET_BYTES = 512 << 20

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


# What a running daemon takes from a new configuration. The rest is used up when it starts.
RELOADED = ("log_level", "data_roots", "copy_roots", "memory_bytes", "job_timeout_s", "drain_timeout_s", "on_stop")


@dataclass
class ServeConfig:
    """The daemon's options.

    ``drain_timeout_s``: how long a stopping daemon goes on writing. ``on_stop``: "drain" what has arrived, or "keep"
    it in the rings for the next daemon. ``group``: the Unix group that may connect. ``ephemeral``: no daemon follows
    this one, so it leaves nothing behind. ``copy_roots``: the folders in which copies of streams may be, beside the
    data roots; object stores need none.
    """

    socket: Path
    data_roots: tuple[Path, ...]
    state_dir: Path
    memory_bytes: int
    writers: int
    log_format: str = "console"
    log_level: str = "info"
    group: str | None = None
    job_timeout_s: float = JOB_TIMEOUT_S
    start_timeout_s: float = START_TIMEOUT_S
    drain_timeout_s: float = 300.0
    on_stop: str = "drain"
    ephemeral: bool = False
    copy_roots: tuple[Path, ...] = ()

    def take(self, new: ServeConfig) -> Reloaded:
        """Take over what may change while the daemon runs."""
        different = [field.name for field in fields(self) if getattr(self, field.name) != getattr(new, field.name)]
        taken = {name: getattr(new, name) for name in different if name in RELOADED}
        for name, value in taken.items():
            setattr(self, name, value)
        return Reloaded(taken, [name for name in different if name not in taken])


@dataclass(frozen=True)
class Reloaded:
    """What has come of a new configuration. ``taken``: the new values. ``left``: options that need a restart."""

    taken: dict[str, Any]
    left: list[str]


def default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "omewd"


def default_writers() -> int:
    """One writer for each core, up to four: one or two saturate a disk, and more only help compression."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


def parse_size(text: str) -> int:
    """Parse a size such as "4GiB", "500MB", "1.5G" or "1000000" into bytes; raises OmewdError ``usage``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise OmewdError("usage", f"{text!r} is not a size", "Write it as in 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])
