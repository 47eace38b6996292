"""The daemons that are shown. However many look, each is asked for its status once a second, and at once when a stream
is paused, goes on or ends.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from omewd.client.client import Client
from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, StreamStatus
from omewd.web.history import History
from omewd.web.watching import Watching

_EVERY_S = 1.0
# A stream that is paused and goes on again and again makes no more work than this.
_AT_MOST_EVERY_S = 0.1
# Requests for what is not known ask again, so long after the answer before at the soonest: errors must not make the
# daemon work. While it does not answer, they wait no longer than that.
_NEW_S, _PATIENCE_S = 0.25, 1.0
# What a daemon has said counts for so long while it does not answer; it does so within milliseconds.
_SILENT_S = 10.0
# A stream's name, and for another than the first daemon that knows it, "@" and the number of the daemon from 1 on.
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})(?:@([1-9][0-9]{0,2}))?")


# A source of a stream, and whether it has a ring. Who has a ring open keeps its memory, so nothing outlives this.
Opened = tuple[int, int, int, bool, int]


@dataclass
class Daemon:
    """A daemon, as it was when it was last asked. ``status``: None if it could not be reached, and ``error`` says why.

    ``socket``: None for the default one. ``life``: grows when another daemon answers, whose streams may have the ids of
    those before. ``asked_s``: when, by this machine's monotonic clock.
    """

    number: int
    socket: Path | None
    status: DaemonStatus | None = None
    error: OmewdError | None = None
    asked_s: float = 0.0
    life: int = 0
    history: History = field(default_factory=History)
    _pid: int = 0
    _uptime_s: float = 0.0
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def ask(self) -> None:
        """Ask it for its status, which may take as long as a time-out. May be called by any thread."""
        with self._asking:
            self._ask()

    def ask_again(self) -> None:
        """Ask it, unless somebody does so meanwhile, or waits for its answer for long."""
        since_s = time.monotonic()
        if not self._asking.acquire(timeout=_PATIENCE_S):
            return
        try:
            if self.asked_s < since_s:
                time.sleep(max(self.asked_s + _NEW_S - time.monotonic(), 0))
                self._ask()
        finally:
            self._asking.release()

    def _ask(self) -> None:
        asked_s = time.monotonic()
        try:
            status = Client(self.socket).daemon_status()
        except OmewdError as error:
            self._failed(error)
        except OSError as error:  # such as no descriptors left, which is over sooner or later
            self._failed(OmewdError("unreachable", f"the daemon can't be asked: {error}"))
        else:
            self.asked_s = asked_s
            if status.pid != self._pid or status.uptime_s < self._uptime_s:
                self.life += 1
            self._pid, self._uptime_s = status.pid, status.uptime_s
            self.history.note(status, self.asked_s)
            self.status, self.error = status, None

    def note_silence(self, silent_s: float) -> None:
        """Note that it has not answered for so long."""
        self._failed(
            OmewdError(
                "unreachable", f"the daemon has not answered for more than {silent_s:g} s", "It may hang: see its log"
            )
        )

    def _failed(self, error: OmewdError) -> None:
        self.status, self.error, self.asked_s = None, error.without_traceback(), time.monotonic()


def opened_as(daemon: Daemon, stream: StreamStatus, source: int = 0) -> Opened:
    """What names a source that is open for reading, among those of all streams of all daemons."""
    return daemon.number, daemon.life, stream.id, not stream.settled or stream.kept_in_ring, source


class Daemons:
    """All daemons. ``turn``: grows with each answer."""

    def __init__(self, sockets: Sequence[Path | None]) -> None:
        self.all = [Daemon(number, socket) for number, socket in enumerate(sockets, 1)]
        self.turn = 0
        self._changed = asyncio.Condition()

    async def watch(self) -> None:
        """Ask all daemons for ever. One that doesn't answer holds none of the others up."""
        threads = CapacityLimiter(len(self.all))
        await asyncio.gather(*(self._watch(daemon, threads) for daemon in self.all))

    async def _watch(self, daemon: Daemon, threads: CapacityLimiter) -> None:
        news = asyncio.Event()
        watching = Watching(daemon.socket, partial(asyncio.get_running_loop().call_soon_threadsafe, news.set))
        while True:
            news.clear()
            asking = asyncio.ensure_future(to_thread.run_sync(daemon.ask, limiter=threads, abandon_on_cancel=True))
            try:
                while not (await asyncio.wait({asking}, timeout=_SILENT_S))[0]:
                    daemon.note_silence(_SILENT_S)
                    await self._tell()
                await asking
            finally:
                asking.cancel()
            await self._tell()
            watching.follow(daemon.status)
            await asyncio.sleep(_AT_MOST_EVERY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _EVERY_S - _AT_MOST_EVERY_S)

    async def _tell(self) -> None:
        async with self._changed:
            self.turn += 1
            self._changed.notify_all()

    async def after(self, turn: int) -> int:
        """Wait for an answer later than a turn; returns the latest turn."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.turn > turn)
            return self.turn

    def find(self, name: str) -> tuple[Daemon, StreamStatus]:
        """The daemon and the status of a stream, by :func:`key_of` or a plain name. The newest one of the name counts.

        Raises OmewdError ``unknown_stream``; ``unreachable`` if a daemon that may know it can't be asked.
        """
        match, daemons = self._meant(name)
        for daemon in daemons:
            for stream in daemon.status.streams if daemon.status else ():
                if match and stream.name == match[1]:
                    return daemon, stream
        for daemon in daemons:
            if daemon.error is not None:
                raise daemon.error
        raise OmewdError("unknown_stream", f"there is no stream {name[:80]!r}", "GET /api/status lists the streams")

    def ask_again(self, name: str) -> None:
        """Ask the daemons that may know a stream: it may be new. May be called by any thread."""
        for daemon in self._meant(name)[1]:
            daemon.ask_again()

    def _meant(self, name: str) -> tuple[re.Match[str] | None, list[Daemon]]:
        match = _NAME.fullmatch(name)
        number = int(match[2]) if match and match[2] else None
        return match, [daemon for daemon in self.all if match and number in (None, daemon.number)]

    def opened(self) -> set[Opened]:
        """What may be open of the streams that the daemons know."""
        return {
            opened_as(daemon, stream, source)
            for daemon in self.all
            if daemon.status is not None
            for stream in daemon.status.streams
            for source in range(max(len(stream.sources), 1))
        }

    def key_of(self, daemon: Daemon, stream: StreamStatus) -> str:
        """The name of a stream in addresses."""
        return stream.name if len(self.all) == 1 else f"{stream.name}@{daemon.number}"
