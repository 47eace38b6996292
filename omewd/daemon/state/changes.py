"""Changes of the journal's files: an entry is written, renamed or removed. A batch of them shares a sync of the folder.

An entry is written aside, synced and renamed, and then the folder is synced. So it is there whole or not at all, also
after a power cut. This runs in a thread of its own: see :mod:`omewd.daemon.background`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omewd.process.faultpoints import point
from omewd.process.names import give_second_name, sync_folder


@dataclass(frozen=True)
class Write:
    """Put an entry in place of the one with this name, if any. ``text``: JSON."""

    is_durable: ClassVar[bool] = True

    name: str
    text: str

    def make(self, folder: Path) -> None:
        aside = folder / f".{self.name}.new"
        aside.unlink(missing_ok=True)  # after a power cut in the middle of the rename, it may be the entry as well
        with aside.open("w") as file:
            file.write(self.text)
            file.flush()
            os.fsync(file.fileno())
        point("daemon: entry aside")
        aside.rename(path_of(folder, self.name))


@dataclass(frozen=True)
class Rename:
    """Give the entry of a stream another name, unless a stream of another epoch has the entry.

    It keeps the old name until the new one is durable, so that no power cut takes both. If only the removal of the old
    one gets lost, the next daemon does the work again.
    """

    is_durable: ClassVar[bool] = False

    name: str
    to: str
    epoch: int

    def make(self, folder: Path) -> None:
        old, new = path_of(folder, self.name), path_of(folder, self.to)
        if is_of(folder, self.name, self.epoch):
            if old.exists():
                new.unlink(missing_ok=True)
                give_second_name(old, new)
            sync_folder(folder)  # fails, too, if the folder is gone
            old.unlink(missing_ok=True)


@dataclass(frozen=True)
class Remove:
    """Remove an entry, unless a stream of another epoch has it; with None as epoch, in any case.

    That may get lost in a power cut: the next daemon then finds that there is nothing left to do.
    """

    is_durable: ClassVar[bool] = False

    name: str
    epoch: int | None

    def make(self, folder: Path) -> None:
        if is_of(folder, self.name, self.epoch):
            path_of(folder, self.name).unlink(missing_ok=True)


Change = Write | Rename | Remove


def make(folder: Path, changes: Sequence[Change]) -> list[OSError | None]:
    """Make changes in their order, and those durable together that need it; returns the error of each, or None."""
    outcomes = [_outcome(folder, change) for change in changes]
    if not any(change.is_durable for change in changes):
        return outcomes
    error = _sync(folder)
    return [
        (outcome or error) if change.is_durable else outcome for change, outcome in zip(changes, outcomes, strict=True)
    ]


def path_of(folder: Path, name: str) -> Path:
    """The path of an entry."""
    return folder / f"{name}.json"


def is_of(folder: Path, name: str, epoch: int | None) -> bool:
    """Whether an entry is that of a stream with this epoch, as far as it can be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return epoch is None or json.loads(path_of(folder, name).read_text()).get("epoch") == epoch
    return True


def _outcome(folder: Path, change: Change) -> OSError | None:
    try:
        change.make(folder)
    except OSError as error:
        return error
    point("daemon: journal changed")
    return None


def _sync(folder: Path) -> OSError | None:
    try:
        sync_folder(folder)
    except OSError as error:
        return error
    return None
