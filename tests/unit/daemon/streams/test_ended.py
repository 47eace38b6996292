"""Streams that have ended: the last ones are known for the status, and their memory is bounded."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.stream_jobs import StreamJobs
from omewd.daemon.streams.streams import KEPT_ENDED_BYTES, KEPT_ENDED_STREAMS, Streams, spec_bytes
from omewd.errors import OmewdError
from omewd.model.spec.outline import MAX_SPEC_BYTES
from omewd.model.spec.stored import stored_spec
from tests.unit.cameras import dataset_at
from tests.unit.rings import make_geometry


class Ended:
    """Streams that end one after the other. ``forgotten``: the paths of datasets that no client can name any more."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        journal = SimpleNamespace(remove=lambda *_: None)
        datasets = SimpleNamespace(
            forget=lambda dataset: self.forgotten.append(str(dataset.path)), copy_rest=lambda _: None
        )
        memory = SimpleNamespace(close_last=lambda _: None)
        self.streams = Streams(cast(Any, journal), cast(Any, datasets), Agenda(), cast(Any, memory))

    def end(self, number: int, details: bytes = b"", *, fails: bool = False, **more: str) -> None:
        fields = {"name": f"s{number}", "dims": "t:inf,y:2,x:3", **more}
        dataset = dataset_at(f"s{number}")
        stream = Stream.of(
            number,
            stored_spec({"name": f"s{number}", "dims": "t:inf,y:2,x:3"}),
            "direct",
            make_geometry(),
            dataset,
            started_ns=0,
            fields=fields,
            details=details,
        )
        stream.owned_by(StreamJobs(stream, cast(Any, None)))
        self.streams.add(stream)
        try:
            if fails:
                raise OmewdError("disk_error", "it does not spin")
        except OmewdError as raised:  # its traceback holds this call, and so the stream
            stream.fail(raised, 0)
        self.streams.release(stream)

    @property
    def known(self) -> list[int]:
        return [stream.id for stream in self.streams.ended.values()]


def test_the_last_streams_are_known() -> None:
    it = Ended()
    for number in range(KEPT_ENDED_STREAMS + 5):
        it.end(number)
    assert it.known == [*range(5, KEPT_ENDED_STREAMS + 5)]
    assert it.forgotten == [f"s{number}" for number in range(5)]


def test_a_stream_that_is_forgotten_is_gone_at_once() -> None:
    """Without a garbage collection, which comes late: it may have megabytes of details."""
    it = Ended()
    it.end(1, fails=True)
    stream = weakref.ref(it.streams.ended["s1"])
    gc.disable()
    try:
        for number in range(2, KEPT_ENDED_STREAMS + 2):
            it.end(number)
        assert it.known[0] == 2
        assert stream() is None
    finally:
        gc.enable()


def test_large_specifications_are_bounded_together() -> None:
    it = Ended()
    for number in range(KEPT_ENDED_STREAMS):
        it.end(number, b"x" * MAX_SPEC_BYTES if number % 2 else b"", title="x" * 200_000)
        assert sum(spec_bytes(stream) for stream in it.streams.ended.values()) <= KEPT_ENDED_BYTES
        assert it.known[-1] == number
    assert len(it.known) >= KEPT_ENDED_BYTES // (MAX_SPEC_BYTES + 500_000)


def test_one_that_is_larger_than_all_may_be_is_known_until_the_next_one_ends() -> None:
    it = Ended()
    it.end(1)
    it.end(2, b"x" * (KEPT_ENDED_BYTES + 1))
    assert it.known == [2]
    it.end(3)
    assert it.known == [3]
