"""What a restarted daemon must know: entries of streams, and what is left to do of those that have ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omewd.daemon.state.journal import RECOVER, SWEEP, InstanceLock, Journal
from omewd.protocol.versions import JOURNAL

VERSION = {"version": str(JOURNAL)}


def test_an_entry_that_is_set_apart_leaves_its_name_to_another_stream(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("cam", {"epoch": 5, "dataset": "old"})
    apart = journal.set_apart("cam", SWEEP, 5)
    journal.write("cam", {"epoch": 6, "dataset": "new"})
    old, new = {**VERSION, "epoch": 5, "dataset": "old"}, {**VERSION, "epoch": 6, "dataset": "new"}
    assert dict(journal.entries()) == {apart: old, "cam": new}
    assert (journal.kind_of(apart), journal.kind_of("cam")) == (SWEEP, None)
    assert journal.set_apart(apart, SWEEP, 5) == apart
    journal.done(SWEEP, 5)
    journal.done(SWEEP, 5)
    assert dict(journal.entries()) == {"cam": new}


def test_the_names_of_new_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", sync)
    state = tmp_path / "a/b"
    InstanceLock(state).release()
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    Journal(state)
    assert synced[2:] == [str(state)]
    InstanceLock(state).release()  # whoever made them may have been killed before they were durable
    assert synced[3:] == [str(tmp_path / "a")]


def test_the_entry_of_another_stream_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("cam", {"epoch": 6})
    journal.set_apart("cam", RECOVER, 5)
    journal.remove("cam", 5)
    assert journal.read("cam") == {**VERSION, "epoch": 6}
    journal.remove("cam", None)
    journal.remove("cam", None)
    assert list(journal.entries()) == []


def test_an_entry_that_can_not_be_read_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, text in enumerate(("{", "[]", "3", "[" * 100_000, "")):
        (tmp_path / "streams" / f"s{number}.json").write_text(text)
    assert dict(journal.entries()) == {f"s{number}": {} for number in range(5)}
