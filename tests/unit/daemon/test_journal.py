"""What a restarted daemon must know: entries of streams, and what is left to do of those that have ended."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd import daemon
from omewd.daemon.loop import Loop
from omewd.daemon.state import changes
from omewd.daemon.state.changes import Change, Remove, Rename, Write
from omewd.daemon.state.journal import RECOVER, SWEEP, InstanceLock, Journal
from omewd.daemon.state.recovery import Recovery
from omewd.daemon.streams.streams import Streams
from omewd.protocol.versions import JOURNAL

VERSION = {"version": str(JOURNAL)}


class Disk:
    """Notes what is synced and renamed, in order, and in which thread. The first ``failing`` syncs of folders fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.threads: set[str] = set()
        self.failing = 0
        self._fsync, self._rename, self._link = os.fsync, Path.rename, os.link
        monkeypatch.setattr(os, "fsync", self._sync)
        monkeypatch.setattr(Path, "rename", lambda old, new: self._renamed(old, new))
        monkeypatch.setattr(os, "link", lambda old, new: self._linked(old, new))

    def _sync(self, descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        self.steps.append("sync folder" if is_folder else "sync file")
        self.threads.add(threading.current_thread().name)
        if is_folder and self.failing:
            self.failing -= 1
            raise OSError(5, "it does not spin")
        self._fsync(descriptor)

    def _renamed(self, old: Path, new: Path) -> Path:
        self.steps.append(f"rename to {new.stem}")
        return self._rename(old, new)

    def _linked(self, old: Path, new: Path) -> None:
        self.steps.append(f"link to {new.stem}")
        self._link(old, new)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def journal(tmp_path: Path, loop: Loop) -> Iterator[Journal]:
    journal = Journal(tmp_path, loop)
    yield journal
    journal.close()


def write(journal: Journal, name: str, entry: dict[str, object]) -> None:
    journal.write(name, entry, lambda _: None)


def entries(journal: Journal) -> dict[str, dict[str, object]]:
    journal.finish()
    return dict(journal.entries())


def test_what_depends_on_an_entry_comes_after_its_syncs_and_in_the_loop(
    loop: Loop, journal: Journal, disk: Disk
) -> None:
    told: list[tuple[object, int, str]] = []
    for name in ("a", "b"):
        journal.write(name, {}, lambda e: told.append((e, len(disk.steps), threading.current_thread().name)))
    journal.finish()
    assert told == [], "the thread told of it itself"
    loop.wait(0)
    assert [error for error, _, _ in told] == [None, None]
    assert {thread for _, _, thread in told} == {threading.main_thread().name}
    assert disk.threads == {"journal"}
    last = {name: disk.steps.index(f"rename to {name}") for name in ("a", "b")}
    assert all("sync folder" in disk.steps[place:] for place in last.values())
    assert disk.steps[:2] == ["sync file", "rename to a"]


def test_changes_that_wait_together_share_a_sync_of_the_folder(disk: Disk, tmp_path: Path) -> None:
    batch: list[Change] = [Write("a", '{"epoch": 5}'), Write("b", "{}"), Remove("b", None)]
    assert changes.make(tmp_path, batch) == [None] * 3
    assert disk.steps == ["sync file", "rename to a", "sync file", "rename to b", "sync folder"]


def test_an_entry_keeps_its_old_name_until_the_new_one_is_durable(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_unlink = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        disk.steps.append(f"remove {path.stem}")
        real_unlink(path, missing_ok=missing_ok)

    (tmp_path / "a.json").write_text('{"epoch": 5}')
    (tmp_path / "sweep~5.json").write_text("of before")
    monkeypatch.setattr(Path, "unlink", unlink)
    assert changes.make(tmp_path, [Rename("a", "sweep~5", 5)]) == [None]
    assert disk.steps == ["remove sweep~5", "link to sweep~5", "sync folder", "remove a"]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep~5.json"]


def test_an_entry_keeps_its_old_name_if_the_new_one_can_not_be_made_durable(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"epoch": 5}')
    disk.failing = 1
    [error] = changes.make(tmp_path, [Rename("a", "sweep~5", 5)])
    assert isinstance(error, OSError)
    assert (tmp_path / "a.json").exists()


def test_the_names_of_new_folders_are_durable(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", sync)
    state = tmp_path / "a/b"
    InstanceLock(state).release()
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    Journal(state, loop).close()
    assert synced[2:] == [str(state)]
    InstanceLock(state).release()  # whoever made them may have been killed before they were durable
    assert synced[3:] == [str(tmp_path / "a")]


def test_removing_syncs_nothing(disk: Disk, tmp_path: Path) -> None:
    assert changes.make(tmp_path, [Remove("a", None), Remove("b", 3)]) == [None, None]
    assert disk.steps == []


def test_an_error_of_the_shared_sync_is_that_of_all_that_need_it(disk: Disk, tmp_path: Path) -> None:
    disk.failing = 1
    outcomes = changes.make(tmp_path, [Write("a", "{}"), Remove("b", None), Write("no/where", "{}")])
    assert [error and error.errno for error in outcomes] == [5, None, 2]


def test_the_writer_of_an_entry_hears_of_its_error(disk: Disk, loop: Loop, journal: Journal) -> None:
    told: list[Exception | None] = []
    disk.failing = 1
    journal.write("cam", {}, told.append)
    journal.finish()
    journal.write("cam", {}, told.append)
    journal.finish()
    loop.wait(0)
    failed, done = told
    assert isinstance(failed, OSError)
    assert done is None


def test_nothing_else_in_the_daemon_waits_for_a_disk() -> None:
    """Only the thread of the journal syncs, and the start, which makes folders."""
    package = Path(daemon.__file__).parent
    syncs = re.compile(r"\b(f?data)?f?sync(fs)?\(|sync_folder|Unsynced")
    assert {path.name for path in package.rglob("*.py") if syncs.search(path.read_text())} == {
        "changes.py",
        "folder.py",
    }


def test_changes_are_made_before_the_journal_is_closed(tmp_path: Path, loop: Loop) -> None:
    journal = Journal(tmp_path, loop)
    for number in range(20):
        write(journal, f"s{number}", {"epoch": number})
    journal.remove("s0", 0)
    journal.close()
    assert {path.stem for path in (tmp_path / "streams").iterdir()} == {f"s{number}" for number in range(1, 20)}
    assert json.loads((tmp_path / "streams/s7.json").read_text()) == {**VERSION, "epoch": 7}


def test_an_entry_that_is_set_apart_leaves_its_name_to_another_stream(journal: Journal) -> None:
    write(journal, "cam", {"epoch": 5, "dataset": "old"})
    apart = journal.set_apart("cam", SWEEP, 5)
    write(journal, "cam", {"epoch": 6, "dataset": "new"})
    old, new = {**VERSION, "epoch": 5, "dataset": "old"}, {**VERSION, "epoch": 6, "dataset": "new"}
    assert entries(journal) == {apart: old, "cam": new}
    assert (journal.kind_of(apart), journal.kind_of("cam")) == (SWEEP, None)
    assert journal.set_apart(apart, SWEEP, 5) == apart
    journal.done(SWEEP, 5)
    journal.done(SWEEP, 5)
    assert entries(journal) == {"cam": new}


def test_the_entry_of_another_stream_stays(journal: Journal) -> None:
    write(journal, "cam", {"epoch": 6})
    journal.set_apart("cam", RECOVER, 5)
    journal.remove("cam", 5)
    journal.finish()
    assert journal.read("cam") == {**VERSION, "epoch": 6}
    journal.remove("cam", None)
    journal.remove("cam", None)
    assert entries(journal) == {}


def test_an_entry_that_can_not_be_read_is_empty(tmp_path: Path, journal: Journal) -> None:
    for number, text in enumerate(("{", "[]", "3", "[" * 100_000, "")):
        (tmp_path / "streams" / f"s{number}.json").write_text(text)
    assert entries(journal) == {f"s{number}": {} for number in range(5)}


def test_of_two_names_of_an_entry_the_new_one_decides(tmp_path: Path, loop: Loop) -> None:
    """As a daemon leaves them that is killed while it renames an entry."""
    journal, counted = Journal(tmp_path, loop), list[int]()
    entries = {
        "a": (5, 1),
        "undo~5": (5, 1),
        "b": (6, 2),
        "c": (7, 3),
        "sweep~8": (8, 4),
        "undo~8": (8, 4),
        "d": (8, 9),
    }
    folder = tmp_path / "streams"
    for name, (epoch, number) in entries.items():
        (folder / f"{name}.json").write_text(json.dumps({"epoch": epoch, "id": number}))
    for name in ("e", "recover~0"):
        (folder / f"{name}.json").write_text("torn")
    streams = cast(Streams, SimpleNamespace(count_from=counted.append))
    none = cast(Any, None)
    recovery = Recovery(streams, none, none, journal, none, instance="", scratch=tmp_path)
    assert [name for name, _ in recovery.entries()] == ["b", "c", "d", "e", "recover~0", "undo~5", "undo~8"]
    journal.close()
    assert counted == [1]
    assert not (folder / "a.json").exists()
    assert (folder / "sweep~8.json").exists()  # it is the rest of the work
