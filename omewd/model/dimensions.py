"""Dimensions of an acquisition, and the ``--dims`` grammar."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from omewd.errors import OmewdError

DimensionType = Literal["space", "time", "channel", "position", "other"]

_USUAL: dict[str, tuple[DimensionType, str | None]] = {
    "t": ("time", "second"),
    "c": ("channel", None),
    "z": ("space", "micrometer"),
    "y": ("space", "micrometer"),
    "x": ("space", "micrometer"),
    "p": ("position", None),
}

MAX_COUNT = 2**40
_MAX_DIGITS = 100

_Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Model):
    """One channel: its name, and the colour (six hex digits) a viewer shows it in."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    color: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{6}$")] = "FFFFFF"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Dimension(_Model):
    """One dimension: how many elements, how they are cut for storage, and what they mean.

    ``count`` None is unbounded. ``chunk_size`` is in elements, ``shard_size_chunks`` in chunks;
    None means the default (whole frame for the last two dimensions, else 1) and no sharding.
    ``scale`` is the step between elements in ``unit``. ``coords`` names the channels.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
    count: _Count | None
    chunk_size: _Count | None = None
    shard_size_chunks: _Count | None = None
    type: DimensionType = "other"
    unit: Annotated[str, Field(max_length=64)] | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    coords: tuple[Channel, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_meaning(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        kind, unit = _USUAL.get(str(value.get("name")), ("other", None))
        if value.get("type") is None:
            value["type"] = kind
        if value.get("unit") is None and value["type"] == kind:
            value["unit"] = unit
        if value.get("count") in ("inf", float("inf")):
            value["count"] = None
        return value

    @model_validator(mode="after")
    def _coords_fit(self) -> Dimension:
        if self.coords is not None:
            if self.type != "channel":
                raise ValueError(f"coords name channels, and {self.name!r} is a {self.type} dimension")
            if len(self.coords) != self.count:
                raise ValueError(f"{len(self.coords)} coords for {self.count} elements of {self.name!r}")
        return self


_DIM = re.compile(
    r"^(?P<name>[A-Za-z][A-Za-z0-9_]{0,31}):(?P<count>inf|[0-9]+)(?::(?P<chunk>[0-9]*))?(?::(?P<shard>[0-9]*))?$"
)


def parse_dims(text: str) -> tuple[Dimension, ...]:
    """Parse ``name:count[:chunk[:shard]],…``, slowest dimension first, the last two the frame's (y, x).

    ``count`` may be ``inf`` in the first dimension; ``chunk`` is in elements, ``shard`` in chunks.
    Raises OmewdError ``bad_spec`` that names the part which does not parse.
    """
    remedy = "Write name:count[:chunk[:shard]] for each dimension, such as t:64:1:16,y:2048:256:8,x:2048:256:8"
    dimensions = []
    for part in text.split(","):
        match = _DIM.match(part.strip())
        if match is None:
            raise OmewdError("bad_spec", f"{part.strip()!r} in --dims {text!r} does not parse", remedy)
        count, chunk, shard = match["count"], match["chunk"], match["shard"]
        numbers = [n for n in (count, chunk, shard) if n and n != "inf"]
        # Python refuses to convert thousands of digits, with an error of its own.
        if any(len(n) > _MAX_DIGITS or not 1 <= int(n) <= MAX_COUNT for n in numbers):
            raise OmewdError("bad_spec", f"{part.strip()!r}: every number is from 1 to {MAX_COUNT}", remedy)
        dimensions.append(
            Dimension(
                name=match["name"],
                count=None if count == "inf" else int(count),
                chunk_size=int(chunk) if chunk else None,
                shard_size_chunks=int(shard) if shard else None,
            )
        )
    return tuple(dimensions)
