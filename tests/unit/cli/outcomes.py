"""Results of a benchmark, as if measured."""

from __future__ import annotations

from typing import Any

import omewd
from omewd.bench.plan import (
    OMEWD,
    Column,
    Geometry,
    Outcome,
    Sample,
    Timed,
)

DIMS = "t:20:1:4,y:64:16:4,x:64:16:4"


def geometry(dims: str = DIMS, dtype: str = "uint16") -> Geometry:
    return Geometry(dims, omewd.parse_dims(dims), dtype)


def sample(write_s: float = 1.0, **fields: Any) -> Sample:
    known: dict[str, Any] = {
        "create_s": 0.1,
        "connect_s": 0.01,
        "write_s": write_s,
        "close_s": 0.2,
        "closed_s": write_s,
        "cpu_s": {"producer": 0.1, "daemon": 0.01, "writers": 0.5},
        "peak_bytes": 1000,
        "stored_bytes": 163840,
        "files": 9,
        "appends_ns": [100, 200, 300, 10_000],
        "waits": {},
    }
    return Sample(**{**known, **fields})


def outcome(*timed: Timed, disk_s: tuple[float, ...] = (0.5, 0.5, 4.0), **fields: Any) -> Outcome:
    return Outcome(geometry(), list(timed), list(disk_s), **fields)


OURS = Column(OMEWD, "tensorstore", None, 2)
