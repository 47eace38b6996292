"""Colour cameras: RGB frames become planes along a channel dimension; Bayer frames stay raw. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from omewd.model.spec.dimensions import Channel, Dimension

Color = Literal["rgb", "rgba", "bayer-rggb", "bayer-grbg", "bayer-gbrg", "bayer-bggr"]
_SAMPLES = {"rgb": 3, "rgba": 4}
_CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"), ("Alpha", "FFFFFF"))
_UINT8_WINDOW = (0.0, 255.0)


def samples_of(color: str | None) -> int:
    """The number of planes in one camera frame: 3 or 4 in colour, 1 for grey and Bayer."""
    return _SAMPLES.get(color or "", 1)


def bayer_of(color: str | None) -> str | None:
    """The pattern of a Bayer sensor: the first two pixels of the first row, then of the second ("rggb", …)."""
    return color.removeprefix("bayer-") if color is not None and color.startswith("bayer-") else None


def with_samples(dimensions: Any, color: Any, *, uint8: bool) -> Any:
    """Insert a channel dimension for the colours before y and x, unless there are channels already.

    With ``uint8`` pixels, viewers show each colour from 0 to 255.
    """
    count = samples_of(color) if isinstance(color, str) else 1
    if count == 1 or not isinstance(dimensions, list | tuple) or len(dimensions) < 2:
        return dimensions
    if any(_is_channels(dimension) for dimension in dimensions):
        return dimensions
    window = _UINT8_WINDOW if uint8 else None
    coords = tuple(Channel(name=name, color=shown, window=window) for name, shown in _CHANNELS[:count])
    return (*dimensions[:-2], Dimension(name="c", count=count, coords=coords), *dimensions[-2:])


def _is_channels(dimension: Any) -> bool:
    if isinstance(dimension, Dimension):
        return dimension.type == "channel" or dimension.name == "c"
    return isinstance(dimension, dict) and (dimension.get("type") == "channel" or dimension.get("name") == "c")


def check_samples(dimensions: Sequence[Dimension], color: str | None, source_dimension: str | None) -> None:
    """Raise ValueError unless the fastest dimension outside the frame fits the colours."""
    count = samples_of(color)
    if count == 1:
        return
    fastest = dimensions[-3] if len(dimensions) > 2 else None
    if fastest is None or fastest.type != "channel" or fastest.count != count:
        what = "there is none" if fastest is None else f"it is {fastest.name!r} ({fastest.type}) of {fastest.count}"
        raise ValueError(
            f"color: {color} frames need a channel dimension of {count} just before y and x; {what}. Put it there, or "
            "leave it out and omewd adds it"
        )
    if fastest.name == source_dimension:
        raise ValueError(
            f"color: the planes of {color} frames come from one camera, so {fastest.name!r} can't be the source "
            "dimension"
        )
