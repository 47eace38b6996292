"""The web application: which address is answered by what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from omewd.errors import OmewdError
from omewd.protocol.status import ErrorStatus
from omewd.web.access import Access, cors_of
from omewd.web.daemons import Daemons
from omewd.web.data import Data
from omewd.web.figures.metrics import CONTENT_TYPE, metrics
from omewd.web.figures.summary import history, summary
from omewd.web.patience import Threads, left
from omewd.web.pictures.asked import whole
from omewd.web.pictures.frames import Frames

_PAGE = Path(__file__).parent / "page"
# Pages that are open at once.
_LISTENERS = 64
_FRESH = {"Cache-Control": "no-store"}
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STATUS_OF = {
    "unknown_stream": 404,
    "unknown_source": 404,
    "no_frame": 404,
    "usage": 400,
    "unreachable": 503,
    "no_daemon": 503,
    "busy": 503,
    "not_stored": 409,
    "evicted": 410,
    "overwritten": 503,
}


def make_app(sockets: Sequence[Path | None], token: str | None) -> Starlette:
    """The application for the daemons at ``sockets`` (None: the default one). ``token``: see :class:`Access`."""
    daemons = Daemons(sockets)
    site = _Site(daemons)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(daemons.watch()), asyncio.create_task(site.tidy())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            site.close()

    app = Starlette(
        routes=[
            Route("/", site.page),
            Mount("/page", StaticFiles(directory=_PAGE)),
            Route("/data/{name}/{key:path}", site.data.answer, methods=["GET", "HEAD", "OPTIONS"]),
            Route("/api/status", site.status),
            Route("/api/summary", site.summary),
            Route("/api/history", site.history),
            Route("/api/events", site.events),
            Route("/api/streams/{name}/choices", site.frames.choices),
            Route("/api/streams/{name}/frame.png", site.frames.answer),
            Route("/metrics", site.metrics),
            Route("/healthz", site.healthz),
            Route("/readyz", site.readyz),
        ],
        middleware=[Middleware(Access, token=token)],
        exception_handlers={OmewdError: _refuse, OSError: _refuse_disk, HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Site:
    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self.data, self.frames = Data(daemons), Frames(daemons)
        self._listeners = 0
        self._event = 0, b""

    async def tidy(self) -> None:
        """Let rings go soon after their streams have ended, and whatever else is of no use."""
        turn, thread = 0, Threads(1, 1)
        while True:
            turn = await self._daemons.after(turn)
            opened = self._daemons.opened()
            await thread.run(partial(self.data.keep_only, opened))
            await thread.run(partial(self.frames.keep_only, opened))

    def close(self) -> None:
        self.data.close()
        self.frames.close()

    async def page(self, _: Request) -> Response:
        return Response((_PAGE / "index.html").read_bytes(), headers=_SAFE | _FRESH, media_type="text/html")

    async def status(self, request: Request) -> Response:
        """The status of a daemon, as ``omewd status --json`` shows it. ``daemon``: its number, from 1 on."""
        number = whole(request.query_params, "daemon", 1, len(self._daemons.all)) or 1
        daemon = self._daemons.all[number - 1]
        if daemon.status is None:
            raise daemon.error or OmewdError("unreachable", "the daemon was not asked yet", "Try again in a second")
        return _json(daemon.status.to_json())

    async def summary(self, _: Request) -> Response:
        return _json(summary(self._daemons))

    async def history(self, _: Request) -> Response:
        return _json(history(self._daemons))

    async def events(self, request: Request) -> Response:
        """Server-sent events (WHATWG HTML, 9.2): the summary, once a second."""
        if request.method == "HEAD":
            return Response(headers=_FRESH, media_type="text/event-stream")
        if self._listeners >= _LISTENERS:
            raise OmewdError("busy", f"{_LISTENERS} pages are open already", "Close some")
        return _Events(self._next, self._listen)

    async def _next(self, turn: int) -> tuple[int, bytes]:
        """The event after a turn, made once however many pages are open."""
        turn = await self._daemons.after(turn)
        if turn != self._event[0]:
            text = json.dumps(summary(self._daemons), separators=(",", ":"))
            self._event = turn, f"data: {text}\n\n".encode()
        return self._event

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[None]:
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1

    async def metrics(self, _: Request) -> Response:
        return Response(metrics(self._daemons), headers={**_FRESH, "Content-Type": CONTENT_TYPE})

    async def healthz(self, _: Request) -> Response:
        """Whether this process answers."""
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def readyz(self, _: Request) -> Response:
        """Whether all daemons answer."""
        silent = [str(daemon.number) for daemon in self._daemons.all if daemon.status is None]
        if silent:
            return PlainTextResponse(f"no answer from daemon {', '.join(silent)}\n", 503, _FRESH)
        return PlainTextResponse("ok\n", headers=_FRESH)


class _Events(Response):
    """A stream of events. Who reads slowly gets fewer of them."""

    def __init__(
        self,
        next_event: Callable[[int], Awaitable[tuple[int, bytes]]],
        listening: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        super().__init__(headers=_FRESH | {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._next, self._listening = next_event, listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with self._listening():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending, leaving = asyncio.create_task(self._send(send)), asyncio.create_task(left(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        turn = 0
        while True:
            turn, body = await self._next(turn)
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _json(value: object) -> Response:
    return JSONResponse(value, headers=_FRESH)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, OmewdError)
    status = _STATUS_OF.get(error.code, 500)
    return JSONResponse({"error": ErrorStatus.of(error).to_json()}, status, cors_of(request.url.path) | _FRESH)


async def _refuse_disk(request: Request, error: Exception) -> Response:
    what = OmewdError("unreachable", f"reading failed: {error}", "Is its disk there, and may omewd web read it?")
    return await _refuse(request, what)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, {**(error.headers or {}), **_FRESH})
