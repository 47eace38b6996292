"""What nobody waits for: calls that hang, and clients that have gone or don't say what they want."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from omewd.errors import OmewdError

T = TypeVar("T")
# A client that takes nothing, or has not said what it wants, for so long has gone.
SLOWEST_S = 30.0


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
        """The result of a call; raises OmewdError ``busy`` if too many wait already."""
        waiting = self._limiter.statistics().tasks_waiting
        if waiting >= self._waiting:
            raise OmewdError("busy", f"{waiting} requests wait already", "Is a disk slow? Try again later")
        return await to_thread.run_sync(call, limiter=self._limiter)


async def left(receive: Receive) -> None:
    """Wait until the client has gone. uvicorn says so in no other way: what is sent then is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Impatient(H11Protocol):
    """Ends connections on which no request is complete for long. uvicorn only does so after an answer."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_answered = self.cycle is None or self.cycle.response_complete
        if not is_answered:
            self._stop_expecting()
        elif self._deadline is None:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(SLOWEST_S, self.transport.abort)

    def _stop_expecting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
