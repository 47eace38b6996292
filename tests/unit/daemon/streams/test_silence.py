"""When the silence of a camera is unusual, and that it is told once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from omewd.daemon.streams.rounds import Rounds
from omewd.daemon.streams.streams import Streams
from omewd.model.silence import Silence
from tests.unit.cameras import Camera, camera_of

S = 10**9


def arrivals(*times: float) -> Silence:
    silence = Silence()
    for time in times:
        silence.note(1, int(time * S))
    return silence


@pytest.mark.parametrize(("expect_fps", "limit_s"), [(100.0, 1.0), (5.0, 1.0), (4.0, 1.25), (0.1, 50.0), (1e6, 1.0)])
def test_a_rate_that_is_expected(expect_fps: float, limit_s: float) -> None:
    assert Silence().limit_ns(expect_fps) == limit_s * S
    assert arrivals(*range(100)).limit_ns(expect_fps) == limit_s * S


def test_the_rate_so_far() -> None:
    assert arrivals(*(n / 100 for n in range(10))).limit_ns(None) is None  # too early
    assert arrivals(*(n / 100 for n in range(100))).limit_ns(None) == 3 * S
    assert arrivals(*(n * 2 for n in range(30))).limit_ns(None) == 20 * S
    stacks = [round_s + n / 100 for round_s in (0, 600, 1200) for n in range(50)]
    assert 1190 * S < (arrivals(*stacks).limit_ns(None) or 0) < 1210 * S  # the pause between two stacks is usual


def told(it: Camera, now_ns: int) -> list[str]:
    streams = cast(Streams, SimpleNamespace(open={1: it.stream}, agenda=it))
    with capture_logs() as logs:
        Rounds(streams, lambda *_: None).go(now_ns)
    return [entry["event"] for entry in logs]


def test_silence_is_told_once_and_so_is_its_end() -> None:
    with camera_of("t:inf,y:2,x:3", expect_fps=10.0) as it:
        it.stream.rings = cast(Any, [SimpleNamespace(producer=it)])
        assert told(it, 10**15) == []  # it has not begun
        it.source.producer_came(77)
        it.publish(3)
        it.poll()
        newest_ns = it.source.newest_frame_ns
        assert newest_ns is not None
        assert told(it, newest_ns + S // 2) == []
        assert told(it, newest_ns + 3 * S + S // 5) == ["no frame for 3.2 s"]
        assert told(it, newest_ns + 4 * S) == []
        it.publish(1)
        it.poll()
        newest_ns = it.source.newest_frame_ns
        assert newest_ns is not None
        assert told(it, newest_ns + S // 2) == ["the camera sends frames again"]
        it.publish(it.source.geometry.capacity)
        it.poll()
        assert told(it, 10**15) == []  # the ring is full: it waits for the disk
        it.source.producer_left()
        assert told(it, 10**15) == []


def test_without_a_rate_a_camera_is_told_by_its_own() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.rings = cast(Any, [SimpleNamespace(producer=it)])
        it.source.producer_came(77)
        for _ in range(12):
            it.publish(1)
            it.poll()
        newest_ns = it.source.newest_frame_ns
        assert newest_ns is not None
        assert told(it, newest_ns + 2 * S) == []
        assert told(it, newest_ns + 4 * S) == ["no frame for 4.0 s"]
