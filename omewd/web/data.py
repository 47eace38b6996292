"""``/data/NAME/KEY``: the keys of a dataset that is being written, or is finished, as a Zarr store gives them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from omewd.errors import OmewdError
from omewd.reader.contents import Content
from omewd.reader.keyed import KeyedReader
from omewd.web.daemons import Daemons
from omewd.web.ranges import RangeError, matches, parse_range
from omewd.web.shared import Shared

_READERS = 16
_PIECE_BYTES = 1 << 20
# Requests that are answered at once; the others wait for their turn.
_AT_ONCE = 32
# A client that takes nothing for so long has gone.
SLOWEST_S = 30.0
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, If-Match, If-None-Match, If-Range, Range",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag",
    "Access-Control-Max-Age": "3600",
}


class Data:
    """Answers requests for keys."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self._readers: Shared[KeyedReader] = Shared(_READERS)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        self._readers.close()

    async def answer(self, request: Request) -> Response:
        """GET, HEAD or OPTIONS of a key. A key that is not there, or not durable yet, is 404.

        What is lost is 409: viewers take 404 for pixels of the fill value, and try 5xx again.
        """
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=CORS)
        name, key = request.path_params["name"], request.path_params["key"]
        async with self._turns:
            with ExitStack() as undo:
                content = await run_in_threadpool(self._open, name, key, undo)
                if content is None:
                    return Response("not there, or not durable yet\n", 404, {**CORS, "Cache-Control": "no-store"})
                headers = {
                    **CORS,
                    "ETag": f'"{content.etag}"',
                    "Accept-Ranges": "bytes",
                    "Cache-Control": "no-cache" if content.is_final else "no-store",
                    "Content-Type": "application/json" if key.endswith("zarr.json") else "application/octet-stream",
                }
                if matches(request.headers.get("if-none-match"), content.etag):
                    return Response(status_code=304, headers=headers)
                if (wanted := request.headers.get("if-match")) is not None and not matches(wanted, content.etag):
                    return Response(status_code=412, headers=headers)
                if_range = request.headers.get("if-range")
                is_same = if_range is None or if_range == f'"{content.etag}"'
                try:
                    part = parse_range(request.headers.get("range"), content.size) if is_same else None
                except RangeError:
                    return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{content.size}"})
                start, stop = part or (0, content.size)
                if part is not None:
                    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
                headers["Content-Length"] = str(stop - start)
                status = 200 if part is None else 206
                if request.method == "HEAD":
                    return Response(status_code=status, headers=headers)
                # What is lost is found out before the answer begins.
                first = await run_in_threadpool(content.read, start, min(start + _PIECE_BYTES, stop))
                if start + len(first) >= stop:
                    return Response(first, status, headers)
                return Pieces(first, content, start, stop, status, headers, undo.pop_all())

    def _open(self, name: str, key: str, undo: ExitStack) -> Content | None:
        daemon, stream = self._daemons.find(name)
        # A reader by the rings' watermarks is of no use once the stream has ended, which its summary then says.
        which = daemon.number, stream.id, stream.path
        make = partial(KeyedReader.of_stream, stream.name, socket=daemon.socket)
        reader = undo.enter_context(self._readers.use(which, make))
        try:
            content = reader.open(key)
        except OmewdError:
            self._readers.forget(which)
            raise
        return None if content is None else undo.enter_context(content)


class Pieces(Response):
    """A long answer, which is read while it is sent. Closes ``files`` at the end."""

    def __init__(
        self,
        first: bytes,
        content: Content,
        start: int,
        stop: int,
        status: int,
        headers: dict[str, str],
        files: ExitStack,
    ) -> None:
        self.status_code, self.background, self.body = status, None, b""
        self._first, self._content, self._start, self._stop, self._files = first, content, start, stop, files
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece, at = self._first, self._start
            while piece:
                at += len(piece)
                # If this takes too long, the connection is closed in the middle, and the client knows.
                await asyncio.wait_for(
                    send({"type": "http.response.body", "body": piece, "more_body": at < self._stop}), SLOWEST_S
                )
                end = min(at + _PIECE_BYTES, self._stop)
                piece = await run_in_threadpool(self._content.read, at, end) if at < self._stop else b""
        finally:
            await run_in_threadpool(self._files.close)
