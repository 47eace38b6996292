"""What a restarted daemon must know: entries of streams, and what is left to do of those that have ended."""

from __future__ import annotations

from pathlib import Path

from omewd.daemon.state.journal import RECOVER, SWEEP, Journal
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
