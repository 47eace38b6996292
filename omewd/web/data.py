"""``/data/NAME/KEY``: the keys of a dataset that is being written, or is finished, as a Zarr store gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from omewd.errors import OmewdError
from omewd.protocol.status import StreamStatus
from omewd.reader.contents import Content
from omewd.reader.keyed import KeyedReader
from omewd.web.access import CORS
from omewd.web.daemons import Daemon, Daemons, Opened, opened_as
from omewd.web.patience import Threads, left
from omewd.web.ranges import asked_for
from omewd.web.shared import Shared

_READERS = 16
# With all connections, twice this must fit into the MemoryMax of the unit.
_PIECE_BYTES = 1 << 17
# Requests that read at once; of the others, so many wait. All together are fewer than the connections that are served.
_AT_ONCE, _WAITING = 32, 768


class Data:
    """Answers requests for keys."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self._readers: Shared[KeyedReader] = Shared(_READERS)
        self._threads = Threads(_AT_ONCE, _WAITING)

    def keep_only(self, opened: set[Opened]) -> None:
        """Close what is no longer of use."""
        self._readers.keep_only(opened)

    def close(self) -> None:
        self._readers.close()

    async def answer(self, request: Request) -> Response:
        """GET, HEAD or OPTIONS of a key. A key that is not there, or not durable yet, is 404.

        What is lost is 409, and what is in a copy alone 410: viewers take 404 for pixels of the fill value, and try 5xx
        again.
        """
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=CORS)
        # Some viewers only open what has such a name. That of a stream has no dot.
        name, key = request.path_params["name"].removesuffix(".zarr").removesuffix(".ome"), request.path_params["key"]
        with ExitStack() as undo:
            found = await self._threads.run(partial(self._open, name, key, undo))
            if found is None:
                return Response("not there, or not durable yet\n", 404, {**CORS, "Cache-Control": "no-store"})
            content, etag = found
            headers = {
                **CORS,
                "ETag": f'"{etag}"',
                "Accept-Ranges": "bytes",
                "Cache-Control": "no-cache" if content.is_final else "no-store",
                "Content-Type": "application/json" if key.endswith("zarr.json") else "application/octet-stream",
            }
            status, part = asked_for(request.method, request.headers, content.size, etag)
            if status in (304, 412):
                return Response(status_code=status, headers=headers)
            if part is None:
                return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{content.size}"})
            start, stop = part
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
            headers["Content-Length"] = str(stop - start)
            if request.method == "HEAD":
                return Response(status_code=status, headers=headers)
            # What is lost is found out before the answer begins.
            first = await self._threads.run(partial(content.read, start, min(start + _PIECE_BYTES, stop)))
            if start + len(first) >= stop:
                return Response(first, status, headers)
            return Pieces(first, partial(self._read, content), (start, stop), status, headers, undo.pop_all())

    async def _read(self, content: Content, start: int, stop: int) -> bytes:
        return await self._threads.run(partial(content.read, start, stop))

    def _open(self, name: str, key: str, undo: ExitStack) -> tuple[Content, str] | None:
        """A key and its entity tag, for which the table and the ledger of a shard in progress are read."""
        known = None
        try:
            daemon, stream = self._daemons.find(name)
            known = opened_as(daemon, stream)
            return self._open_of(daemon, stream, key, undo)
        except OmewdError:  # within a second, another stream may have the name, or another daemon the socket
            self._daemons.ask_again(name)
            daemon, stream = self._daemons.find(name)
            if opened_as(daemon, stream) == known:
                raise
            return self._open_of(daemon, stream, key, undo)

    def _open_of(self, daemon: Daemon, stream: StreamStatus, key: str, undo: ExitStack) -> tuple[Content, str] | None:
        which = opened_as(daemon, stream)
        make = partial(KeyedReader.of_stream, stream.name, number=stream.id, socket=daemon.socket)
        reader = undo.enter_context(self._readers.use(which, make))
        content = reader.open(key)
        if content is None:
            return None
        return undo.enter_context(content), f"{reader.epoch:x}-{content.etag}"


class Pieces(Response):
    """A long answer, which is read while it is sent. Closes ``files`` at the end."""

    def __init__(
        self,
        first: bytes,
        read: Callable[[int, int], Awaitable[bytes]],
        part: tuple[int, int],
        status: int,
        headers: dict[str, str],
        files: ExitStack,
    ) -> None:
        self.status_code, self.background, self.body = status, None, b""
        self._first, self._read, self._part, self._files = first, read, part, files
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        leaving = asyncio.create_task(left(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece, (at, stop) = self._first, self._part
            # If there is less than was announced, the connection is closed in the middle, and the client knows.
            while piece and not leaving.done():
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": at < stop})
                piece = await self._read(at, min(at + _PIECE_BYTES, stop)) if at < stop else b""
        finally:
            leaving.cancel()
            self._files.close()
