"""What lies beside a dataset for a while: one that is being made, and the one that it replaces."""

from __future__ import annotations

import shutil
from pathlib import Path

from omewd.process.names import sync_folder


def beside(dataset: Path, which: str, epoch: int) -> Path:
    """The path where a dataset is created ("new"), or where the one that it replaces waits for removal ("old")."""
    return dataset.with_name(f".{dataset.name}.omewd-{which}-{epoch:x}")


def sweep(dataset: Path, epoch: int) -> None:
    """Remove the leftovers beside a dataset: the one that it replaced, and those of killed writers."""
    leftovers = _leftovers(dataset, epoch)
    for leftover in leftovers:
        shutil.rmtree(leftover)
    if leftovers:
        sync_folder(dataset.parent)  # before the journal forgets it


def has_leftovers(dataset: Path, epoch: int) -> bool:
    return bool(_leftovers(dataset, epoch))


def _leftovers(dataset: Path, epoch: int) -> list[Path]:
    """Of the stream of that epoch: another one may be making a dataset in the same place."""
    return [path for which in ("new", "old") if (path := beside(dataset, which, epoch)).exists()]
