"""Chooses among the trees that a power cut may leave, and lays them out on disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.powercut.model import History, Tree, Unit


@dataclass(frozen=True)
class Cut:
    """A tree that may be left at a moment. ``at``: the line of the trace after which the power fails."""

    at: int
    tree: Tree
    kept: str

    def __str__(self) -> str:
        return f"after line {self.at}, {self.kept}"


def moments(history: History) -> list[int]:
    """The lines of the trace after which something else may be on disk than before."""
    ends = {effect.begin for effect in history.effects} | {
        int(effect.durable_at) for effect in history.effects if effect.durable_at < float("inf")
    }
    return sorted(at for at in ends if at >= 0)


def cuts(history: History, at: int, chance: random.Random, subsets: int) -> Iterator[Cut]:
    """The trees of one moment: without what was pending, with all of it, each single part missing, and each alone.

    ``subsets``: how many random ones come on top.
    """
    pending = history.pending(at)
    for words, kept in _choices(pending, chance, subsets):
        yield Cut(at, history.tree(at, kept), words)


def sampled(history: History, times: Sequence[int], chance: random.Random, subsets: int, count: int) -> Iterator[Cut]:
    """Trees of randomly chosen moments, chosen before any is made: there may be hundreds of large ones for a moment."""
    pending = {at: history.pending(at) for at in set(chance.choices(times, k=count))}
    for at in chance.choices(sorted(pending), k=count):
        words, kept = chance.choice(list(_choices(pending[at], chance, subsets)))
        yield Cut(at, history.tree(at, kept), words)


def _choices(pending: Sequence[Unit], chance: random.Random, subsets: int) -> Iterator[tuple[str, list[Unit]]]:
    yield "nothing unsynced kept", []
    if not pending:
        return
    yield "all kept", list(pending)
    for unit in pending if len(pending) > 1 else ():
        yield f"all kept but {_words(unit)}", [other for other in pending if other is not unit]
        yield f"only {_words(unit)} kept", [unit]
    for _ in range(subsets if len(pending) > 2 else 0):
        part = chance.random()
        kept = [unit for unit in pending if chance.random() < part]
        yield f"kept {', '.join(map(_words, kept))}"[:2000], kept


def _words(unit: Unit) -> str:
    call = unit[0].call
    return f"{'+'.join(type(effect).__name__ for effect in unit)} of {call.name}{call.paths} (line {call.begin})"


def signature(tree: Tree) -> int:
    """The same for equal trees."""
    return hash(frozenset(tree.items()))


def clear(folder: Path) -> None:
    """Remove all that is in a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def lay_out(tree: Tree, folder: Path) -> None:
    """Make a tree on disk, in place of what was there."""
    clear(folder)
    names: dict[int, Path] = {}
    for path, entry in tree.items():  # folders come before what is in them
        if entry is None:
            (folder / path).mkdir()
            continue
        data, number = entry
        if number in names:
            os.link(names[number], folder / path)
        else:
            names[number] = folder / path
            names[number].write_bytes(data)


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder, by path: the bytes of files, and None for folders."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


def contents(tree: Tree) -> dict[str, bytes | None]:
    """A tree in the form of :func:`on_disk`."""
    return {path: None if entry is None else entry[0] for path, entry in tree.items()}
