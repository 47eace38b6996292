"""``/api/streams/NAME/frame.png``: a frame of a stream as a picture, from its ring while it is there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omewd.errors import OmewdError
from omewd.protocol.status import StreamStatus
from omewd.reader.view import View, ViewedFrame, require_number, view
from omewd.web.daemons import Daemon, Daemons, Opened, opened_as
from omewd.web.patience import Threads
from omewd.web.pictures.asked import Asked
from omewd.web.pictures.choices import Choices
from omewd.web.pictures.picture import Picture, Pixels, picture, step_of
from omewd.web.ranges import matches
from omewd.web.shared import Shared

_VIEWS = 32
# So that ten who look at one stream cost what one does.
_KEPT_BYTES = 64 << 20
# Pictures that are drawn at once, and that wait for it.
_AT_ONCE, _WAITING = 4, 128
# One larger than this is drawn at a time: with 16 requests at once for 2048 and 4096 pixels a side of a camera in
# colour (uint16), this process had 454 MiB at most.
_LARGE_PIXELS = 1 << 22
# Frame indexes of a position that are looked at for one that is no gap.
_LOOKED_AT = 64


class Looking:
    """A view that one thread uses at a time."""

    def __init__(self, seen: View) -> None:
        self.view, self.lock = seen, threading.Lock()

    @cached_property
    def choices(self) -> Choices:
        return Choices.of(self.view.stream_spec(), self.view.source)

    def close(self) -> None:
        self.view.close()


class Frames:
    """Answers requests for pictures."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self._views: Shared[Looking] = Shared(_VIEWS)
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._threads, self._large = Threads(_AT_ONCE, _WAITING), Threads(1, _WAITING)

    def keep_only(self, opened: set[Opened]) -> None:
        """Close what is no longer of use."""
        self._views.keep_only(opened)

    def close(self) -> None:
        self._views.close()

    async def answer(self, request: Request) -> Response:
        """A picture. Parameters: ``index`` (default: the newest), ``source`` (its number), ``image`` and ``channel``
        (the newest of a position and a channel, by number), ``level`` (a resolution of the dataset) or ``size`` (most
        pixels a side), ``low`` and ``high`` (black and white).
        """
        daemon, stream = self._daemons.find(request.path_params["name"])
        asked = Asked.of(request.query_params, stream)
        threads = self._large if asked.pixels_of(stream) > _LARGE_PIXELS else self._threads
        return await threads.run(partial(self._draw, daemon, stream, asked, request.headers.get("if-none-match")))

    async def choices(self, request: Request) -> Response:
        """The positions, channels and resolutions that pictures of a source may be of."""
        daemon, stream = self._daemons.find(request.path_params["name"])
        source = Asked.of(request.query_params, stream).source
        told = await self._threads.run(partial(self._choices, daemon, stream, source))
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    def _choices(self, daemon: Daemon, stream: StreamStatus, source: int) -> dict[str, Any]:
        with self._looking(daemon, stream, source) as looking:
            return looking.choices.to_json()

    def _draw(self, daemon: Daemon, stream: StreamStatus, asked: Asked, known: str | None) -> Response:
        with self._looking(daemon, stream, asked.source) as looking:
            frame = _frame(looking, asked)
            first, planes = _planes(frame.index, stream.samples)
            etag = f"{looking.view.epoch:x}-{first}-{asked.how}"
            headers = {"ETag": f'"{etag}"', "Cache-Control": "no-store", "X-Frame-Index": str(first)}
            headers |= _place(looking.choices, first)
            if matches(known, etag):
                return Response(status_code=304, headers=headers)
            drawn = self._kept(etag)
            if drawn is None:
                read = partial(_pixels, step=step_of(looking.view.shape, asked.size), level=asked.level)
                colours = [read(looking.view.frame(plane)) for plane in planes]
                pixels = np.stack(colours, -1) if colours else read(frame)
                del colours  # they may be large
                drawn = picture(pixels, most=asked.size, low=asked.low, high=asked.high)
        self._keep(etag, drawn)
        headers |= {"X-Low": f"{drawn.low:g}", "X-High": f"{drawn.high:g}"}
        return Response(drawn.png, headers=headers, media_type="image/png")

    @contextmanager
    def _looking(self, daemon: Daemon, stream: StreamStatus, source: int) -> Iterator[Looking]:
        which = opened_as(daemon, stream, source)
        with self._views.use(which, partial(_open, stream, source, daemon)) as looking, looking.lock:
            try:
                yield looking
            except OmewdError as error:
                if error.code not in ("no_frame", "overwritten", "usage") or not looking.view.has_ring:
                    self._views.forget(which)
                raise

    def _kept(self, key: str) -> Picture | None:
        with self._lock:
            return self._pictures.get(key)

    def _keep(self, key: str, drawn: Picture) -> None:
        with self._lock:
            self._pictures[key] = drawn
            while sum(len(kept.png) for kept in self._pictures.values()) > _KEPT_BYTES:
                self._pictures.popitem(last=False)


def _open(stream: StreamStatus, source: int, daemon: Daemon) -> Looking:
    with ExitStack() as undo:
        seen = undo.enter_context(view(stream.name, source=source, socket=daemon.socket))
        require_number(seen, stream.id)
        undo.pop_all()
        return Looking(seen)


def _frame(looking: Looking, asked: Asked) -> ViewedFrame:
    """The frame that was asked for; raises OmewdError ``no_frame``, ``usage``."""
    seen = looking.view
    if asked.index is not None:
        return seen.frame(asked.index)
    latest = seen.latest()
    if latest is None:
        raise OmewdError("no_frame", f"stream {seen.name!r} has no frame yet", "Wait for its camera")
    if asked.image is None and asked.channel is None:
        return latest
    if (asked.channel or 0) > looking.choices.most_channel:
        raise OmewdError("usage", f"channel={asked.channel}: the last one is {looking.choices.most_channel}")
    for earlier in islice(looking.choices.newest(latest.index, asked.image, asked.channel), _LOOKED_AT):
        try:
            return seen.frame(earlier)
        except OmewdError as error:
            if error.code != "no_frame":  # which a gap is until it is durable
                raise
    raise OmewdError(
        "no_frame",
        f"stream {seen.name!r} has no such frame yet, or only gaps of late",
        "Wait for the camera, or ask for a frame by its index",
    )


def _pixels(frame: ViewedFrame, *, step: int, level: int | None) -> Pixels:
    return frame.copy(step) if level is None else frame.at_level(level)


def _place(choices: Choices, frame: int) -> dict[str, str]:
    """Where a frame is, for who asked for the newest one."""
    channel = choices.channel_of(frame)
    return {"X-Image": str(choices.plan.image(frame))} | ({} if channel is None else {"X-Channel": str(channel)})


def _planes(index: int, samples: int) -> tuple[int, range]:
    """The planes of the newest colour frame that is complete with the frame of an index: the first, and those to draw.

    Of a frame in grey, there are none.
    """
    if samples == 1:
        return index, range(0)
    first = max((index + 1) // samples - 1, 0) * samples
    return first, range(first, first + 3)
