"""Rates over the last minutes, and deaths of writers, from statuses."""

from __future__ import annotations

from omewd.protocol.status import DaemonStatus, FramesStatus, StreamStatus, WriterStatus
from omewd.web.history import POINTS, History


def status(
    *streams: tuple[int, int], pid: int = 1, writers: tuple[int, ...] = (7, 8), stopping: bool = False
) -> DaemonStatus:
    return DaemonStatus(
        pid=pid,
        writers=tuple(WriterStatus(pid=number) for number in writers),
        streams=tuple(
            StreamStatus(id=number, frame_bytes=10, frames=FramesStatus(received=count + 3, gaps=3))
            for number, count in streams
        ),
        stopping=stopping,
    )


def test_a_rate_is_that_since_the_status_before() -> None:
    history = History()
    for at_s, count in ((100.0, 0), (101.0, 50), (103.0, 60)):
        history.note(status((1, count)), at_s)
    assert [(point.at_s, point.frames_per_s, point.bytes_per_s) for point in history.of(1)] == [
        (101.0, 50.0, 500.0),
        (103.0, 5.0, 50.0),
    ]
    assert history.of(2) == ()


def test_a_status_that_comes_soon_after_another_makes_no_rate() -> None:
    """As when something has happened to a stream."""
    history = History()
    for at_s, count in ((100.0, 0), (100.1, 50), (100.9, 60), (101.0, 100), (101.9, 160)):
        history.note(status((1, count)), at_s)
    assert [(point.at_s, round(point.frames_per_s, 3)) for point in history.of(1)] == [(100.9, 66.667), (101.9, 100.0)]


def test_it_keeps_the_last_minutes_of_the_streams_that_are_there() -> None:
    history = History()
    for at_s in range(2 * POINTS):
        history.note(status((1, at_s)), float(at_s))
    assert len(history.of(1)) == POINTS
    assert history.of(1)[-1].at_s == 2 * POINTS - 1
    history.note(status((2, 5)), 9999.0)
    assert history.of(1) == ()


def test_another_daemon_begins_anew() -> None:
    history = History()
    history.note(status((1, 1000)), 1.0)
    history.note(status((1, 2000)), 2.0)
    history.note(status((1, 0), pid=2, writers=(9, 10)), 3.0)
    assert (history.of(1), history.writer_deaths) == ((), 0)


def test_a_writer_that_is_no_longer_there_has_died() -> None:
    history = History()
    history.note(status(), 1.0)
    history.note(status(writers=(7, 9)), 2.0)
    history.note(status(writers=(10, 11)), 3.0)
    assert history.writer_deaths == 3
    history.note(status(writers=(), stopping=True), 4.0)
    assert history.writer_deaths == 3
