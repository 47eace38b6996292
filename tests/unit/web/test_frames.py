"""Views of streams for pictures: what is opened for them, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, StreamStatus
from omewd.web.daemons import Daemons
from omewd.web.pictures import frames
from omewd.web.pictures.frames import Frames
from omewd.web.pictures.picture import Picture


class NoFrameYet:
    """A view of a stream with a ring and no frame."""

    name, has_ring, closed = "cam", True, False

    def __init__(self, number: int) -> None:
        self.number = number

    def latest(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> NoFrameYet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(shown: Frames, count: int) -> list[str]:
    """The codes of the errors of requests for the newest picture."""

    async def run() -> list[str]:
        codes = []
        for _ in range(count):
            with pytest.raises(OmewdError) as refusal:
                await shown.answer(
                    Request(
                        {
                            "type": "http",
                            "method": "GET",
                            "headers": [],
                            "query_string": b"",
                            "path_params": {"name": "cam"},
                        }
                    )
                )
            codes.append(refusal.value.code)
        return codes

    return asyncio.run(run())


@pytest.mark.parametrize(("number", "opened"), [(1, 1), (2, 3)])
def test_a_page_that_waits_for_a_frame_asks_the_daemon_once(
    monkeypatch: pytest.MonkeyPatch, number: int, opened: int
) -> None:
    """And a stream that has replaced the one of the status is not taken for it, nor is its ring kept."""
    views: list[NoFrameYet] = []

    def view(*_: Any, **__: Any) -> NoFrameYet:
        views.append(NoFrameYet(number))
        return views[-1]

    monkeypatch.setattr(frames, "view", view)
    daemons = Daemons([None])
    daemons.all[0].status = DaemonStatus(streams=(StreamStatus(id=1, name="cam"),))
    shown = Frames(daemons)
    assert ask(shown, 3) == ["no_frame"] * 3
    assert len(views) == opened
    shown.keep_only(daemons.opened())
    assert [each.closed for each in views] == [number != 1] * opened
    shown.keep_only(set())
    assert all(each.closed for each in views)


def test_pictures_are_kept_up_to_so_many_bytes() -> None:
    shown = Frames(Daemons([None]))
    for number in range(10):
        shown._keep(str(number), Picture(0, 1, bytes(16 << 20)))
    assert [number for number in range(10) if shown._kept(str(number))] == [6, 7, 8, 9]
