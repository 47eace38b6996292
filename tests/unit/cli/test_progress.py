"""Following a stream to its end: a failure is an error whenever it comes."""

from __future__ import annotations

from typing import Any, cast

import pytest

import omewd
from omewd.cli.show.progress import follow
from omewd.client.client import Client
from omewd.errors import OmewdError, StreamFailedError
from omewd.protocol.status import StreamStatus
from tests.unit.cli.test_status_lines import counts, stream


class FailsWhileNobodyWaits:
    """A daemon whose stream fails between two waits, so that its status tells of the end first."""

    def __init__(self) -> None:
        self.waits = 0

    def wait(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        self.waits += 1
        if self.waits == 1:
            raise OmewdError("timeout", f"stream {name!r} was not done after {timeout} s")
        raise StreamFailedError("stream_failed", "the disk is gone", "")

    def stream_status(self, name: str) -> StreamStatus:
        return StreamStatus.from_json(stream(1, name, counts(4, 8), "FAILED"))


def test_a_stream_that_fails_between_two_waits_is_an_error() -> None:
    with pytest.raises(omewd.StreamFailedError, match="the disk is gone"):
        follow(cast(Client, FailsWhileNobodyWaits()), "cam", quiet=False)
