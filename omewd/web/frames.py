"""``/api/streams/NAME/frame.png``: a frame of a stream as a picture, from its ring while it is there."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from contextlib import ExitStack
from functools import partial
from itertools import islice

import numpy as np
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.protocol.status import StreamStatus
from omewd.reader.view import View, ViewedFrame, require_number, view
from omewd.web.daemons import Daemon, Daemons, Opened, opened_as
from omewd.web.patience import Threads
from omewd.web.picture import Picture, picture, step_of
from omewd.web.ranges import matches
from omewd.web.shared import Shared

_VIEWS = 32
# So that ten who look at one stream cost what one does.
_KEPT_BYTES = 64 << 20
_LARGEST, _USUAL = 4096, 1024
# Pictures that are drawn at once, and that wait for it.
_AT_ONCE, _WAITING = 4, 128
# Frame indexes of a position that are looked at for one that is no gap.
_LOOKED_AT = 64


class Looking:
    """A view that one thread uses at a time."""

    def __init__(self, seen: View) -> None:
        self.view, self.lock = seen, threading.Lock()

    def close(self) -> None:
        self.view.close()


class Frames:
    """Answers requests for pictures."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self._views: Shared[Looking] = Shared(_VIEWS)
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = Threads(_AT_ONCE, _WAITING)

    def keep_only(self, opened: set[Opened]) -> None:
        """Close what is no longer of use."""
        self._views.keep_only(opened)

    def close(self) -> None:
        self._views.close()

    async def answer(self, request: Request) -> Response:
        """A picture. Parameters: ``index`` (default: the newest), ``source`` (its number), ``image`` (the newest of a
        position, by number), ``size`` (most pixels a side), ``low`` and ``high`` (black and white).
        """
        daemon, stream = self._daemons.find(request.path_params["name"])
        return await self._threads.run(partial(self._draw, daemon, stream, request))

    def _draw(self, daemon: Daemon, stream: StreamStatus, request: Request) -> Response:
        query = request.query_params
        source = whole(query, "source", 0, max(len(stream.sources) - 1, 0)) or 0
        index, image = whole(query, "index", 0, 1 << 62), whole(query, "image", 0, max(stream.images - 1, 0))
        most = whole(query, "size", 16, _LARGEST) or _USUAL
        low, high = number(query, "low"), number(query, "high")
        which = opened_as(daemon, stream, source)
        opened = partial(_open, stream, source, daemon)
        with self._views.use(which, opened) as looking, looking.lock:
            try:
                frame = _frame(looking.view, index, image)
                first, planes = _planes(frame.index, stream.samples)
                etag = f"{looking.view.epoch:x}-{source}-{first}-{most}-{low}-{high}"
                headers = {"ETag": f'"{etag}"', "Cache-Control": "no-store", "X-Frame-Index": str(first)}
                if matches(request.headers.get("if-none-match"), etag):
                    return Response(status_code=304, headers=headers)
                drawn = self._kept(etag)
                if drawn is None:
                    step = step_of(looking.view.shape, most)
                    colours = [looking.view.frame(plane).copy(step) for plane in planes]
                    pixels = np.stack(colours, -1) if colours else frame.copy(step)
                    drawn = picture(pixels, most=most, low=low, high=high)
            except OmewdError as error:
                if error.code not in ("no_frame", "overwritten") or not looking.view.has_ring:
                    self._views.forget(which)
                raise
        self._keep(etag, drawn)
        headers |= {"X-Low": f"{drawn.low:g}", "X-High": f"{drawn.high:g}"}
        return Response(drawn.png, headers=headers, media_type="image/png")

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


def _frame(looking: View, index: int | None, image: int | None) -> ViewedFrame:
    """The frame that was asked for; raises OmewdError ``no_frame``."""
    if index is not None:
        return looking.frame(index)
    latest = looking.latest()
    if latest is None:
        raise OmewdError("no_frame", f"stream {looking.name!r} has no frame yet", "Wait for its camera")
    if image is None:
        return latest
    plan = Plan.of(looking.stream_spec(), source=looking.source)
    for earlier in islice(plan.frames_back(image, latest.index), _LOOKED_AT):
        try:
            return looking.frame(earlier)
        except OmewdError as error:
            if error.code != "no_frame":  # which a gap is until it is durable
                raise
    raise OmewdError(
        "no_frame",
        f"stream {looking.name!r} has no frame of image {image} yet, or only gaps of late",
        "Wait for the camera, or ask for a frame by its index",
    )


def _planes(index: int, samples: int) -> tuple[int, range]:
    """The planes of the newest colour frame that is complete with the frame of an index: the first, and those to draw.

    Of a frame in grey, there are none.
    """
    if samples == 1:
        return index, range(0)
    first = max((index + 1) // samples - 1, 0) * samples
    return first, range(first, first + 3)


def whole(query: QueryParams, name: str, least: int, most: int) -> int | None:
    """A whole number out of an address, None if it is not there; raises OmewdError ``usage``."""
    text = query.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise OmewdError("usage", f"{name}={text[:40]} is not a whole number from {least} to {most}")
    return int(text)


def number(query: QueryParams, name: str) -> float | None:
    """A number out of an address, None if it is not there; raises OmewdError ``usage``."""
    text = query.get(name)
    if text is None or text == "":
        return None
    try:
        value = float(text[:40])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OmewdError("usage", f"{name}={text[:40]} is not a number")
    return value
