"""The model of a power cut: what it allows, and what it does not."""

from __future__ import annotations

import random

import pytest

from tests.powercut.model import BLOCK_BYTES, History, Mode
from tests.powercut.record import Call
from tests.powercut.trees import contents, cuts, moments

Tree = dict[str, bytes | None]


def call(line: int, name: str, *paths: str, data: bytes = b"", offset: int | None = None, size: int = 0) -> Call:
    return Call(line, line, name, paths, data, offset, size, flags="O_CREAT" if name == "open" else "")


def all_trees(calls: list[Call], mode: Mode = Mode.STRICT) -> list[Tree]:
    """The trees that a cut after the last call may leave."""
    history = History.of(calls, mode, ["data"])
    last = moments(history)[-1]
    return [contents(cut.tree) for cut in cuts(history, last, random.Random(1), subsets=100)]


def kept(name: str, trees: list[Tree]) -> set[bytes | None]:
    """What may be in a file; None if it may be gone."""
    return {tree.get(f"data/{name}") for tree in trees}


CREATED = [call(0, "open", "data/a"), call(1, "write", "data/a", data=b"one")]
SYNCED = [*CREATED, call(2, "fsync", "data/a"), call(3, "fsync", "data")]


def test_what_is_synced_with_its_name_is_there() -> None:
    assert kept("a", all_trees(SYNCED)) == {b"one"}


def test_a_file_whose_folder_is_not_synced_may_be_gone() -> None:
    assert kept("a", all_trees(SYNCED[:3])) == {b"one", None}
    assert kept("a", all_trees(SYNCED[:3], Mode.ATOMIC)) == {b"one"}


def test_data_and_size_may_be_there_without_each_other() -> None:
    assert kept("a", all_trees([*CREATED, call(3, "fsync", "data")])) == {b"one", b"\0\0\0", b""}


def test_each_block_of_a_write_may_be_missing() -> None:
    data = b"a" * BLOCK_BYTES + b"b" * 5
    found = kept(
        "a", all_trees([call(0, "open", "data/a"), call(1, "fsync", "data"), call(2, "write", "data/a", data=data)])
    )
    zeros = bytes(len(data))
    assert found == {b"", zeros, data, data[:BLOCK_BYTES] + bytes(5), zeros[:BLOCK_BYTES] + b"b" * 5}


def test_a_file_that_grows_keeps_what_was_synced() -> None:
    grown = [*SYNCED, call(4, "write", "data/a", data=b"two")]
    assert kept("a", all_trees(grown)) == {b"one", b"one\0\0\0", b"onetwo"}


def test_a_sync_covers_what_had_returned_when_it_began() -> None:
    late = Call(1, 4, "write", ("data/a",), b"one")
    calls = [call(0, "open", "data/a"), Call(2, 3, "fsync", ("data/a",)), late, call(5, "fsync", "data")]
    assert kept("a", all_trees(calls)) == {b"one", b"\0\0\0", b""}


def test_a_sync_counts_once_it_has_returned() -> None:
    calls = [*CREATED, call(2, "fsync", "data"), Call(3, 9, "fsync", ("data/a",))]
    history = History.of(calls, Mode.STRICT, ["data"])
    assert len(history.pending(8)) == 2
    assert history.pending(9) == []


@pytest.mark.parametrize("mode", Mode)
def test_the_halves_of_a_rename_may_be_apart_in_the_strict_mode_only(mode: Mode) -> None:
    trees = all_trees([*SYNCED, call(4, "rename", "data/a", "data/b")], mode)
    names = {tuple(name for name in ("a", "b") if f"data/{name}" in tree) for tree in trees}
    assert names == {("a",), ("b",)} | ({(), ("a", "b")} if mode is Mode.STRICT else set())


def test_a_rename_into_a_folder_that_is_not_synced_may_lose_the_file() -> None:
    calls = [
        *[
            call(0, "mkdir", "data/x"),
            call(1, "open", "data/x/a"),
            call(2, "fsync", "data/x"),
            call(3, "fsync", "data"),
        ],
        *[call(4, "rename", "data/x/a", "data/a"), call(5, "fsync", "data/x")],
    ]
    assert any("data/a" not in tree and "data/x/a" not in tree for tree in all_trees(calls))
    assert all("data/a" in tree for tree in all_trees(calls, Mode.ATOMIC))
    assert all("data/a" in tree for tree in all_trees([*calls, call(6, "fsync", "data")]))


def test_what_was_removed_may_be_back_until_its_folder_is_synced() -> None:
    calls = [*SYNCED, call(4, "unlink", "data/a")]
    assert kept("a", all_trees(calls)) == {b"one", None}
    assert kept("a", all_trees([*calls, call(5, "fsync", "data")])) == {None}


def test_two_names_are_one_file() -> None:
    history = History.of([*SYNCED, call(4, "link", "data/a", "data/b"), call(5, "syncfs", "")], Mode.STRICT, ["data"])
    tree = history.tree(5, [])
    assert tree["data/a"] == tree["data/b"] == (b"one", 0)


def test_a_truncation_may_be_missing_below_a_later_write() -> None:
    calls = [*SYNCED, call(4, "truncate", "data/a", size=0), call(5, "write", "data/a", data=b"x")]
    assert kept("a", all_trees(calls)) == {b"one", b"xne", b"", b"x", b"\0"}
