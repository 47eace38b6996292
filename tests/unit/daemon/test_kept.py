"""Kept rings are let go: their names stay taken until the journal has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.background import Then
from omewd.daemon.state.kept import KeptRing
from omewd.daemon.state.recovery import Recovery
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError


class Desk:
    """Recovery with one kept ring, and a journal whose changes end by hand."""

    def __init__(self) -> None:
        none = cast(Any, None)
        self.changes: list[Then] = []
        self.removed: list[tuple[str, ...]] = []
        self.streams = Streams(none, none, none, none)
        self.kept = KeptRing("cam", {}, OmewdError("bad_ring", "damaged"), ("/cam",), 1 << 20, None, None)
        self.streams.keep(self.kept)
        journal = SimpleNamespace(remove=lambda _, __, then: self.changes.append(then))
        memory = SimpleNamespace(remove=self.removed.append)
        lifecycle = SimpleNamespace(memory_comes_back=lambda _: None)
        parts = cast(Any, lifecycle), cast(Any, journal), cast(Any, memory)
        self.recovery = Recovery(self.streams, none, *parts, instance="", scratch=Path())

    def let_go(self) -> list[OmewdError | None]:
        told: list[OmewdError | None] = []
        self.recovery.let_go(self.kept, told.append)
        return told


def test_a_kept_ring_keeps_its_name_until_the_journal_has_changed() -> None:
    """Otherwise the entry of a new stream would take the place of its entry, which may have to stay."""
    desk = Desk()
    told = desk.let_go()
    assert (set(desk.streams.kept), told, desk.removed) == ({"cam"}, [], [])
    for again in (desk.let_go, lambda: desk.recovery.take_over_again("cam")):
        with pytest.raises(OmewdError, match="is just being discarded") as caught:
            again()
        assert caught.value.code == "busy"
    [end] = desk.changes
    end(None)
    assert (desk.streams.kept, told, desk.removed) == ({}, [None], [("/cam",)])


def test_a_kept_ring_that_can_not_be_let_go_may_be_tried_again() -> None:
    desk = Desk()
    told = desk.let_go()
    desk.changes.pop()(OSError(5, "it does not spin"))
    assert [error and error.code for error in told] == ["no_resources"]
    assert (set(desk.streams.kept), desk.removed) == ({"cam"}, [])
    assert desk.let_go() == []
    desk.changes.pop()(None)
    assert desk.streams.kept == {}
