"""Producers that come to a source's ring, and what is left when the daemon has no descriptors for one."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.control.peer_process import UNSEEN, process_of
from omewd.daemon.control.server import Peer
from omewd.daemon.loop import Loop
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.producers import Producers, is_unattended
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from tests.unit.cameras import camera_of
from tests.unit.rings import make_geometry


class RecordedSource:
    """Stands for a source: notes which producer has come."""

    number, name = 0, ""

    def __init__(self) -> None:
        self.producer: int | None = None
        self.ring = SimpleNamespace(producer=0)

    def producer_came(self, pid: int) -> None:
        self.producer = self.ring.producer = pid


class Setting:
    """A stream with one ring in shared memory, and a client."""

    def __init__(self, process: int = os.getpid()) -> None:
        self.loop = Loop()
        self.ring = SourceRing.create(f"/omewd-test-{os.getpid()}-{secrets.token_hex(4)}", make_geometry())
        self.source = RecordedSource()
        self.channel, self._other = socket.socketpair()
        self.peer = Peer(self.channel, process, os.getuid())
        self.producers = Producers(self.loop, Agenda())

    @property
    def of(self) -> tuple[Stream, Source]:
        stream = SimpleNamespace(id=3, name="cam", rings=[self.ring])
        return cast(Stream, stream), cast(Source, self.source)

    def attached(self) -> tuple[object, ...]:
        """Who is the producer, as the client, the ring, the source and the ring's lock have it."""
        return self.peer.attached, self.ring.producer, self.source.producer, self.ring.producer_lives

    def close(self) -> None:
        os.close(self.ring.remove())
        self.channel.close()
        self._other.close()
        self.loop.close()


@pytest.fixture
def setting() -> Iterator[Setting]:
    setting = Setting()
    yield setting
    setting.close()


def no_descriptors(*_: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_without_a_descriptor_for_the_doorbell_the_source_stays_free(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(descriptors())
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", no_descriptors)
        with pytest.raises(OSError, match="Too many open files"):
            setting.producers.attach(*setting.of, setting.peer)
    assert len(descriptors()) == before
    assert setting.attached() == (None, None, None, False)

    descriptor, bell = setting.producers.attach(*setting.of, setting.peer)
    with bell:
        assert setting.attached() == ((3, 0), setting.peer, os.getpid(), True)
        with pytest.raises(OmewdError, match="already has a producer"):
            setting.producers.attach(*setting.of, setting.peer)
    os.close(descriptor)


def test_without_a_descriptor_for_a_new_doorbell_the_old_one_stays(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor, bell = setting.producers.attach(*setting.of, setting.peer)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", no_descriptors)
        with pytest.raises(OSError, match="Too many open files"):
            setting.producers.reattach(*setting.of, setting.peer)
    assert setting.attached() == ((3, 0), setting.peer, os.getpid(), True)
    setting.ring.ring_producer()
    assert bell.recv(10, socket.MSG_DONTWAIT) == b"!"

    with bell, setting.producers.reattach(*setting.of, setting.peer) as new:
        assert setting.attached() == ((3, 0), setting.peer, os.getpid(), True)
        setting.ring.ring_producer()
        assert new.recv(10, socket.MSG_DONTWAIT) == b"!"
        assert bell.recv(10, socket.MSG_DONTWAIT) == b""
    os.close(descriptor)


def test_the_next_daemon_knows_of_a_producer_that_can_not_be_seen() -> None:
    """One in another container has the process id 0 here, as if there were none: nobody would notice its death."""
    channel, other = socket.socketpair()
    with channel, other, camera_of("t:inf,y:2,x:3") as it:
        process = process_of(channel, 0)
        it.source.producer_came(process)
        assert it.source.ring is not None
        it.source.resume(it.source.ring, 0)
        assert it.source.producer == process
        stream = SimpleNamespace(rings=[SimpleNamespace(producer=None)])
        assert is_unattended(cast(Stream, stream), it.source)


def test_another_process_that_can_not_be_seen_does_not_become_the_producer(setting: Setting) -> None:
    setting.peer.process = UNSEEN + 300
    descriptor, bell = setting.producers.attach(*setting.of, setting.peer)
    other = Peer(setting.channel, UNSEEN + 301, os.getuid())
    with bell, pytest.raises(OmewdError, match="a process in another PID namespace is not the producer"):
        setting.producers.reattach(*setting.of, other)
    os.close(descriptor)
