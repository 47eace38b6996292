"""What the page shows of the daemons, as JSON. Pure."""

from __future__ import annotations

from typing import Any

from omewd.protocol.status import ErrorStatus, StreamStatus
from omewd.web.daemons import Daemon, Daemons
from omewd.web.history import Point

# The page shows the open streams, and so many that have ended.
_ENDED = 12


def summary(daemons: Daemons) -> dict[str, Any]:
    """All daemons with their streams, the open ones first."""
    return {"daemons": [_daemon(daemons, daemon) for daemon in daemons.all]}


def history(daemons: Daemons) -> dict[str, Any]:
    """For each stream, by its name in addresses, its rates over the last minutes: (seconds, frames/s, bytes/s)."""
    return {
        daemons.key_of(daemon, stream): [_rounded(point) for point in daemon.history.of(stream.id)]
        for daemon in daemons.all
        for stream in (reversed(daemon.status.streams) if daemon.status else ())
    }


def _daemon(daemons: Daemons, daemon: Daemon) -> dict[str, Any]:
    known = {"number": daemon.number, "socket": str(daemon.socket or ""), "at_s": round(daemon.asked_s, 1)}
    status = daemon.status
    if status is None:
        error = None if daemon.error is None else ErrorStatus.of(daemon.error).to_json()
        return {**known, "error": error, "streams": []}
    ended = [stream for stream in status.streams if stream.settled]
    shown = [stream for stream in status.streams if not stream.settled] + ended[:_ENDED]
    return {
        **known,
        "error": None,
        "version": status.version,
        "uptime_s": round(status.uptime_s),
        "stopping": status.stopping,
        "writers": [{"pid": writer.pid, "ready": writer.ready, "jobs": writer.jobs} for writer in status.writers],
        "writer_deaths": daemon.history.writer_deaths,
        "memory": status.memory.to_json(),
        "ended_not_shown": len(ended) - len(ended[:_ENDED]) + status.streams_not_shown,
        "streams": [_stream(daemons, daemon, stream) for stream in shown],
    }


def _stream(daemons: Daemons, daemon: Daemon, stream: StreamStatus) -> dict[str, Any]:
    points = daemon.history.of(stream.id)
    return {
        "key": daemons.key_of(daemon, stream),
        "recent": _rounded(points[-1]) if points else None,
        **{name: value for name, value in stream.to_json().items() if name in _SHOWN},
    }


def _rounded(point: Point) -> tuple[float, float, int]:
    return round(point.at_s, 1), round(point.frames_per_s, 2), round(point.bytes_per_s)


_SHOWN = {
    *("id", "name", "state", "settled", "path", "dtype", "frame_shape", "frame_bytes", "images", "levels", "backend"),
    *("compression", "durability", "frames", "ring", "sources", "throughput", "paused", "disk", "recent_waits"),
    *("retries", "ended_by", "error", "acknowledged", "kept_in_ring"),
}
