"""What a request for a picture asks for. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.protocol.status import StreamStatus

_LARGEST, _USUAL = 4096, 1024


@dataclass(frozen=True)
class Asked:
    """``size``: at most so many pixels a side. ``level``: the resolution, None for what ``size`` makes of the frame."""

    source: int
    index: int | None
    image: int | None
    channel: int | None
    level: int | None
    size: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, query: Mapping[str, str], stream: StreamStatus) -> Asked:
        """Read the parameters of an address; raises OmewdError ``usage``."""
        level = whole(query, "level", 0, max(stream.levels - 1, 0))
        return cls(
            source=whole(query, "source", 0, max(len(stream.sources) - 1, 0)) or 0,
            index=whole(query, "index", 0, 1 << 62),
            image=whole(query, "image", 0, max(stream.images - 1, 0)),
            channel=whole(query, "channel", 0, 1 << 31),
            level=level,
            size=whole(query, "size", 16, _LARGEST) or (_USUAL if level is None else _LARGEST),
            low=number(query, "low"),
            high=number(query, "high"),
        )

    @property
    def how(self) -> str:
        """What tells pictures of one frame apart."""
        return f"{self.source}-{self.level}-{self.size}-{self.low}-{self.high}"

    def pixels_of(self, stream: StreamStatus) -> int:
        """How many values of pixels are held at once, about."""
        # For a resolution of the dataset, the whole frame is copied first.
        sides = [min(side, self.size) if self.level is None else side for side in stream.frame_shape]
        return math.prod(sides) * (3 if stream.samples > 1 else 1)


def whole(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """A whole number out of an address, None if it is not there; raises OmewdError ``usage``."""
    text = query.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise OmewdError("usage", f"{name}={text[:40]} is not a whole number from {least} to {most}")
    return int(text)


def number(query: Mapping[str, str], name: str) -> float | None:
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
