"""Rings of the last daemon's streams that could not be taken over: kept as they are, until somebody says what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omewd.daemon.state.journal import require_readable
from omewd.errors import OmewdError
from omewd.protocol.status import KeptRingStatus

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class KeptRing:
    """The rings of one stream, with its entry in the journal as it was found.

    ``shared_memory``: the segments' names, with a slash; ``dataset`` and ``place`` (where that really is) are None
    where the entry does not say it.
    """

    name: str
    entry: dict[str, Any]
    error: OmewdError
    shared_memory: tuple[str, ...]
    ring_bytes: int
    dataset: Path | None
    place: Path | None

    @classmethod
    def of(cls, name: str, entry: Any, error: Exception, instance: str) -> KeptRing:
        """What is there of a stream by its entry, or if that can't be read by the names of segments."""
        entry = entry if isinstance(entry, dict) else {}
        if not isinstance(error, OmewdError):
            error = OmewdError("bad_journal", f"its entry in the journal leads to {error!r}")
        segments = _segments(name, entry, instance)
        sizes = [path.stat().st_size for path in (_SHARED_MEMORY / segment[1:] for segment in segments)]
        return cls(name, entry, error, segments, sum(sizes), _path(entry, "dataset"), _path(entry, "place"))

    @property
    def has_dataset(self) -> bool:
        """Whether the entry says enough of the dataset to finalize it."""
        numbers, texts = ("id", "epoch"), ("dataset", "root")
        known = all(isinstance(self.entry.get(key), int) for key in numbers)
        try:
            require_readable(self.entry)
        except OmewdError:
            return False
        return known and all(self.entry.get(key) for key in texts) and isinstance(self.entry.get("spec"), dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where its segments are."""
        return tuple(str(_SHARED_MEMORY / segment[1:]) for segment in self.shared_memory)

    def status(self) -> KeptRingStatus:
        dataset = str(self.dataset) if self.dataset else None
        return KeptRingStatus(self.name, self.paths, self.ring_bytes, dataset, str(self.error), self.error.code)


def _path(entry: dict[str, Any], key: str) -> Path | None:
    value = entry.get(key)
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def _segments(name: str, entry: dict[str, Any], instance: str) -> tuple[str, ...]:
    told = entry.get("shared_memory")
    names = told if isinstance(told, list) else []
    own = re.compile(rf"/{re.escape(instance)}-\d+-[\w-]+")
    wanted = [each for each in names if isinstance(each, str) and own.fullmatch(each)]
    if not wanted:
        guess = re.compile(rf"{re.escape(instance)}-\d+-\d+-{re.escape(name)}")
        wanted = [f"/{path.name}" for path in _SHARED_MEMORY.iterdir() if guess.fullmatch(path.name)]
    return tuple(sorted(each for each in wanted if (_SHARED_MEMORY / each[1:]).is_file()))
