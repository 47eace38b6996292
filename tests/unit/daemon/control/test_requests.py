"""Requests: which handler gets which, and when the answer comes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.requests import Requests
from omewd.daemon.control.server import ControlServer, Handler, Peer
from omewd.daemon.control.status import brief_status, stream_status
from omewd.daemon.control.status_requests import StatusRequests
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from tests.unit.cameras import Camera, camera_of, cameras

CACHED = ("ring", "plan", "spec", "name", "shards")
PEER = cast(Peer, SimpleNamespace(open=True))


class Server(ControlServer):
    """Only notes down what it answers."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def _send(self, *sent: Any) -> None:
        self.answers.append(sent[1])


class Group:
    def __init__(self, *names: str) -> None:
        self._names = names

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {name: lambda _, message: {"done": message["op"]} for name in self._names}


def test_each_operation_goes_to_its_handler() -> None:
    requests = Requests([Group("one", "two"), Group("three")])
    for name in ("one", "two", "three"):
        assert requests.handle(PEER, {"op": name}) == {"done": name}


@pytest.mark.parametrize("wish", [None, "four", 5, ["one"], {"op": "one"}, "x" * 1000])
def test_an_operation_that_there_is_not_is_told_which_there_are(wish: object) -> None:
    requests = Requests([Group("one", "two"), Group("three")])
    with pytest.raises(OmewdError) as caught:
        requests.handle(PEER, {"op": wish})
    assert (caught.value.code, caught.value.remedy) == ("bad_message", "Requests are one, two and three")
    assert len(str(caught.value)) < 300


def status_requests(it: Camera) -> tuple[StatusRequests, PendingReplies, Server]:
    streams = SimpleNamespace(named=lambda _: it.stream, look_at=lambda _: None, open={1: it.stream})
    server = Server()
    replies = PendingReplies(server)
    return (
        StatusRequests(cast(Any, None), cast(Streams, streams), cast(Any, None), cast(Any, None), replies),
        replies,
        server,
    )


def test_a_status_is_told_after_the_turn_that_has_looked_at_every_stream() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        requests, replies, server = status_requests(it)
        it.publish(3)
        requests.operations["status"](PEER, {"name": "s"})
        assert server.answers == []
        it.poll()
        replies.turned()
        assert [answer["ok"]["frames"]["received"] for answer in server.answers] == [3]
        replies.turned()
        assert len(server.answers) == 1


def test_telling_a_status_changes_nothing() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        requests, replies, _ = status_requests(it)
        it.publish(2)

        def facts() -> dict[str, Any]:
            own = {name: value for name, value in vars(it.source).items() if name not in CACHED}
            return copy.deepcopy({**own, "state": it.stream.state})

        before = facts()
        requests.operations["status"](PEER, {"name": "s"})
        replies.turned()
        assert facts() == before


def test_a_bug_in_an_answer_is_told_and_ends_nothing() -> None:
    server = Server()
    replies = PendingReplies(server)

    def answer() -> dict[str, Any]:
        raise ZeroDivisionError

    replies.after_this_turn(PEER, answer)
    replies.after_this_turn(PEER, dict)
    replies.turned()
    assert [answer.get("ok", answer.get("error", {}).get("code")) for answer in server.answers] == ["internal", {}]


@pytest.mark.parametrize("brief", [True, False])
def test_a_producer_that_waits_for_its_source_gets_the_status_of_no_other_if_it_says_so(brief: bool) -> None:
    with cameras("t:4,v:2,y:2,x:3", "left", "right") as its:
        server, stream = Server(), its[1].stream
        replies = PendingReplies(server)
        stream.settle()
        replies.when_ended(PEER, stream, stream.sources[1], brief=brief)
        [answer] = server.answers
        assert [source["name"] for source in answer["ok"]["sources"]] == (["right"] if brief else ["left", "right"])
        assert answer["ok"]["ring"] == stream_status(stream, 0).to_json()["ring"]


def test_what_a_producer_needs_costs_no_more_with_more_sources() -> None:
    answers = []
    for count in (2, 64):
        names = [f"cam{number:02}" for number in range(count)]
        with cameras(f"t:4,v:{count},y:2,x:3", *names) as its:
            answers.append(brief_status(its[0].stream, its[1].source))
            assert answers[-1].items() <= {**stream_status(its[0].stream, 0).to_json(), "source": 1}.items()
    assert len(json.dumps(answers[0])) == len(json.dumps(answers[1])) < 100
