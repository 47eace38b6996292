"""Threads for calls that may hang, and the wait for a client that leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

from omewd.errors import OmewdError

T = TypeVar("T")


class Threads:
    """``most`` calls at a time, while at most ``waiting`` wait.

    Whatever hangs in them, as on a disk that does not answer, takes no thread from others, and no place from requests
    that need none.
    """

    def __init__(self, most: int, waiting: int) -> None:
        self._most, self._waiting = most, waiting

    @cached_property
    def _limiter(self) -> CapacityLimiter:  # made in the event loop
        return CapacityLimiter(self._most)

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call; raises OmewdError ``unreachable`` if too many wait already."""
        waiting = self._limiter.statistics().tasks_waiting
        if waiting >= self._waiting:
            raise OmewdError("unreachable", f"{waiting} requests wait already", "Is a disk slow? Try again later")
        return await to_thread.run_sync(call, limiter=self._limiter)


async def left(receive: Receive) -> None:
    """Wait until the client has gone. uvicorn says so in no other way: what is sent then is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
