"""What a child is told before it gets a job."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.processes.child import Child
from omewd.daemon.processes.pools import Pools
from omewd.daemon.processes.roles import roles
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.jobs.datasets import CheckPlace, CreateDataset
from omewd.protocol.jobs.frames import SealShards
from omewd.protocol.jobs.job import MAINTAINER, WRITER, Job
from tests.unit.cameras import stream_of
from tests.unit.rings import make_geometry

ROLES = {role.name: role for role in roles(writers=1, cores=1)}
MANY_IMAGES = "p:200,t:5,y:2,x:3"


class Told:
    """Pools whose children only take note of what they are told."""

    def __init__(self) -> None:
        self.children = {
            number: Child(number, role, cast(Any, None), -1, cast(Any, None), Path(), 0, ready=True)
            for number, role in enumerate(ROLES.values(), 1)
        }
        self.told: list[tuple[str, str]] = []
        self.too_large = False

    def __iter__(self) -> Any:
        return iter(self.children.values())

    def ready(self) -> dict[str, list[int]]:
        return {child.role.name: [child.id] for child in self.children.values()}

    def child(self, number: int) -> Child:
        return self.children[number]

    def of(self, role: str) -> Any:
        return SimpleNamespace(children={c.id: c for c in self.children.values() if c.role.name == role})

    def tell(self, child: Child, message: Any, descriptors: tuple[int, ...] = (), **_: bytes) -> None:
        if self.too_large and message["do"] == "job":
            raise OmewdError("too_large", "a message of 5 MB is over the limit")
        assert len(descriptors) == (message["do"] == "ring")
        self.told.append((child.role.name, message["do"]))


class Owner:
    waits_for_space = False

    def __init__(self) -> None:
        self.failed: list[str] = []

    def job_done(self, *_: object) -> None: ...

    def job_put_back(self, *_: object) -> None: ...

    def job_failed(self, _task: object, error: OmewdError, _now_ns: int) -> None:
        self.failed.append(error.code)


class Desk:
    def __init__(self, dims: str) -> None:
        self.stream = stream_of(StreamSpec(name="s", dimensions=parse_dims(dims)), make_geometry())
        self.owner = Owner()
        self.stream.owned_by(self.owner)
        self.stream.rings = [cast(Any, SimpleNamespace(descriptor=9))]
        self.pools, self.dispatcher = Told(), Dispatcher(60, ROLES)
        streams: dict[int, Stream] = {self.stream.id: self.stream}
        self.delivery = Delivery(self.dispatcher, cast(Pools, self.pools), cast(Streams, SimpleNamespace(open=streams)))

    def give(self, job: Job) -> list[tuple[str, str]]:
        self.pools.told.clear()
        self.delivery.submit(self.stream, job)
        self.delivery.give_jobs(0)
        for task in list(self.dispatcher.tasks()):
            self.dispatcher.finish(self.dispatcher._last_lease, 0)
            assert task.owner is self.owner
        return self.pools.told


CHECK, SEAL = CheckPlace("/data/s", "/data", {}), SealShards(1, 0, 5)


def test_a_child_is_told_of_a_stream_once_and_only_for_jobs_that_need_it() -> None:
    desk = Desk("t:inf,y:2,x:3")
    assert desk.give(CHECK) == [(WRITER, "job")]
    assert desk.give(CreateDataset(1, "/data")) == [(WRITER, "open"), (WRITER, "job")]
    assert desk.give(SEAL) == [(WRITER, "job")]
    desk.delivery.introduce(desk.stream)
    assert desk.pools.told == [(WRITER, "job"), (WRITER, "ring")]
    desk.pools.told.clear()
    desk.delivery.introduce(desk.stream)
    assert desk.pools.told == []


def test_the_maintainer_makes_a_dataset_of_many_images_and_gets_no_ring() -> None:
    desk = Desk(MANY_IMAGES)
    assert desk.give(CreateDataset(1, "/data")) == [(MAINTAINER, "open"), (MAINTAINER, "job")]
    desk.delivery.introduce(desk.stream)
    assert (MAINTAINER, "ring") not in desk.pools.told
    assert (WRITER, "ring") in desk.pools.told


def test_a_stream_that_has_ended_is_closed_where_it_was_told() -> None:
    desk = Desk(MANY_IMAGES)
    desk.give(CreateDataset(1, "/data"))
    desk.pools.told.clear()
    desk.delivery.close(desk.stream)
    desk.delivery.close(desk.stream)
    assert desk.pools.told == [(MAINTAINER, "close")]


@pytest.mark.parametrize("job", [CHECK, SEAL], ids=lambda job: job.kind)
def test_a_job_that_fits_in_no_message_fails(job: Job) -> None:
    desk = Desk("t:inf,y:2,x:3")
    desk.pools.too_large = True
    desk.give(job)
    assert desk.owner.failed == ["too_large"]
    assert not list(desk.dispatcher.tasks())
