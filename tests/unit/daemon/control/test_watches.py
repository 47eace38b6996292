"""Who watches a stream is answered once there are news, once at a time, and not more often than is useful."""

from __future__ import annotations

from typing import Any, cast

import pytest

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.watches import Watches, watched
from omewd.errors import Loss, OmewdError, StreamFailedError
from omewd.protocol.status import ErrorStatus
from omewd.protocol.watch import (
    FramesDurable,
    ShardsSealed,
    StreamDone,
    StreamFailed,
    StreamGoesOn,
    StreamPaused,
    Watched,
    WatchedSource,
    events,
)
from tests.unit.cameras import camera_of

MS = 1_000_000


class Server(ControlServer):
    """Only notes down what it answers, and whom."""

    def __init__(self) -> None:
        self.answers: list[tuple[Peer, Any]] = []

    def _send(self, *sent: Any) -> None:
        self.answers.append((sent[0], sent[1]["ok"]))

    def take(self) -> list[tuple[Peer, Any]]:
        taken, self.answers = self.answers, []
        return taken


def peer() -> Peer:
    return cast(Peer, type("Client", (), {"open": True})())


def test_an_answer_comes_with_the_news_and_not_sooner_than_50_ms() -> None:
    server = Server()
    watches = Watches(server)
    one, other = peer(), peer()
    with camera_of("t:inf,y:2,x:3") as it:
        first = watches.ask(one, it.stream, None, 0)
        assert first is not None
        assert first["sources"] == [{"name": "", "received": 0, "durable": 0, "sealed": 0, "copied": 0}]
        known = Watched.from_json(first).known()
        assert watches.ask(one, it.stream, known, 0) is None
        assert watches.ask(other, it.stream, {"id": 5}, 10 * MS) is None
        assert [watches.next_ns] == [50 * MS]
        it.publish(3)
        it.poll()
        it.work()
        watches.note(it.stream)
        watches.turned(20 * MS)
        assert server.take() == []
        watches.turned(50 * MS)
        [(who, told)] = server.take()
        assert (who, told["sources"][0]["durable"], watches.next_ns) == (one, 3, 60 * MS)
        watches.turned(60 * MS)  # it had said something that never was so
        assert ([who for who, _ in server.take()], watches.next_ns) == ([other], None)

        assert watches.ask(one, it.stream, Watched.from_json(told).known(), 100 * MS) is None
        watches.turned(150 * MS)
        watches.note(it.stream)  # a frame has come, and is not on disk
        watches.turned(200 * MS)
        assert (server.take(), watches.next_ns) == ([], None)
        it.publish(1)
        it.poll()
        it.work()
        watches.note(it.stream)
        watches.turned(201 * MS)
        assert (server.take(), watches.next_ns) == ([], 250 * MS), "it was just looked at"
        watches.turned(250 * MS)
        assert [told["sources"][0]["durable"] for _, told in server.take()] == [4]
        watches.note(it.stream)
        watches.turned(300 * MS)
        assert server.take() == []


def test_who_wants_to_know_of_the_stream_alone_is_not_told_of_frames_and_costs_no_more_than_others() -> None:
    server = Server()
    watches = Watches(server)
    with camera_of("t:inf,y:2,x:3") as it:
        first = watches.ask(peer(), it.stream, None, 0)
        known = Watched.from_json(first).known(frames=False)
        assert watches.ask(peer(), it.stream, known, 0) is None
        watches.turned(50 * MS)
        assert watches.next_ns is None
        for turn in range(60, 100, 10):  # within 50 ms, nothing is looked at again
            it.publish(1)
            it.poll()
            it.work()
            watches.note(it.stream)
            watches.turned(turn * MS)
            assert watches.next_ns == 100 * MS
        watches.turned(100 * MS)
        assert (server.take(), watches.next_ns) == ([], None)
        it.stream.drive.paused = OmewdError("disk_full", "no space", "Free some")
        watches.note(it.stream)
        watches.turned(150 * MS)
        [(_, told)] = server.take()
        assert told["paused"]["code"] == "disk_full"
        assert [type(event) for event in events(None, Watched.from_json(told), frames=False)] == [StreamPaused]


def test_a_connection_has_one_request_and_none_once_it_is_gone() -> None:
    server = Server()
    replies = PendingReplies(server)
    one = peer()
    with camera_of("t:inf,y:2,x:3") as it:
        known = watched(it.stream).known()
        assert replies.watches.ask(one, it.stream, known, 0) is None
        with pytest.raises(OmewdError) as refused:
            replies.watches.ask(one, it.stream, known, 0)
        assert refused.value.code == "busy"
        it.publish(2)
        it.poll()
        it.work()
        replies.tell(it.stream)
        replies.forget(one)
        replies.watches.turned(100 * MS)
        assert (server.take(), replies.watches.next_ns) == ([], None)


def test_a_pause_and_the_end_are_news() -> None:
    server = Server()
    watches, one = Watches(server), peer()
    with camera_of("t:2,y:2,x:3") as it:
        assert watches.ask(one, it.stream, watched(it.stream).known(), 0) is None
        it.stream.drive.pause(OmewdError("disk_full", "the disk is full"))
        watches.note(it.stream)
        watches.turned(60 * MS)
        [(_, told)] = server.take()
        assert told["paused"]["code"] == "disk_full"
        assert watches.ask(one, it.stream, Watched.from_json(told).known(), 60 * MS) is None
        it.stream.settle()
        watches.note(it.stream)
        watches.turned(61 * MS)  # nobody waits for the end
        [(_, told)] = server.take()
        assert (told["settled"], told["paused"]) == (True, None)
        assert watches.ask(one, it.stream, Watched.from_json(told).known(), 70 * MS) is not None


def test_the_events_between_two_answers() -> None:
    full = ErrorStatus("disk_full", "the disk is full", "Free space")
    begun = Watched(1, "s", "ACTIVE", sources=(WatchedSource("a", 9, 8, 4), WatchedSource("b")))
    assert list(events(None, begun)) == [FramesDurable("s", 0, 0, 8), ShardsSealed("s", 0, 4)]
    later = Watched(1, "s", "ACTIVE", paused=full, sources=(WatchedSource("a", 9, 8, 8), WatchedSource("b", 3, 2)))
    durable, *_, paused = found = list(events(begun, later))
    assert durable == ShardsSealed("s", 0, 8)
    assert FramesDurable("s", 1, 0, 2) in found
    assert isinstance(paused, StreamPaused)
    assert paused.error.code == "disk_full"
    assert list(events(later, later)) == []
    assert list(events(later, begun)) == [StreamGoesOn("s")]
    failed = StreamFailedError.of(OmewdError("disk_error", "EIO"), Loss(9, 1, (("a", ((8, 1),)),)))
    [end] = events(later, Watched(1, "s", "FAILED", True, None, failed.to_dict(), later.sources))
    assert isinstance(end, StreamFailed)
    assert isinstance(end.error, StreamFailedError)
    assert (end.error.cause, end.error.lost_by_source) == ("disk_error", {"a": ((8, 1),)})
    assert list(events(begun, Watched(1, "s", "DONE", True, sources=begun.sources))) == [StreamDone("s", 9)]
