"""Dimensions of an acquisition, and the ``--dims`` grammar."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from omewd.errors import OmewdError
from omewd.model.spec.checked import Checked

DimensionType = Literal["space", "time", "channel", "position", "other"]

_USUAL: dict[str, tuple[DimensionType, str | None]] = {
    "t": ("time", "second"),
    "c": ("channel", None),
    "z": ("space", "micrometer"),
    "y": ("space", "micrometer"),
    "x": ("space", "micrometer"),
    "p": ("position", None),
}

# From abbreviations that other programs use (OME-XML, "UnitsLength" and "UnitsTime") to OME-Zarr 0.5's unit names.
_UNITS = {
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "us": "microsecond",
    "µs": "microsecond",
    "min": "minute",
    "h": "hour",
}

MAX_COUNT = 2**40
_MAX_DIGITS = 100

_Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Channel(Checked):
    """One channel: its name, its display colour (six hex digits) and its optics (wavelengths in nm).

    ``window``: the grey values (start, end) that viewers show as black and as full colour. None: omewd finds them from
    the frames.
    """

    name: Annotated[str, Field(min_length=1, max_length=256)]
    color: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{6}$")] = "FFFFFF"
    window: tuple[_Finite, _Finite] | None = None
    excitation_wavelength_nm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    emission_wavelength_nm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    fluorophore: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _window_has_a_width(self) -> Channel:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"channel {self.name!r}: the window's start must be below its end, not {self.window}")
        return self


_Coordinate = Annotated[float, Field(allow_inf_nan=False)]
_WellName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,32}$")]


class Position(Checked):
    """One stage position: its name and its coordinates, in the units of the space dimensions.

    ``plate_row`` and ``plate_column`` name the well that the position lies in. ``grid_row`` and ``grid_column`` give
    its place in a grid of tiles.
    """

    name: Annotated[str, Field(min_length=1, max_length=256)]
    x_coord: _Coordinate | None = None
    y_coord: _Coordinate | None = None
    z_coord: _Coordinate | None = None
    plate_row: _WellName | None = None
    plate_column: _WellName | None = None
    grid_row: int | None = None
    grid_column: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_in_one_well(self) -> Position:
        if (self.plate_row is None) != (self.plate_column is None):
            raise ValueError(f"position {self.name!r}: give both plate_row and plate_column, or neither")
        return self


class Plate(Checked):
    """A multi-well plate: the names of all its rows and columns, including those without images."""

    row_names: Annotated[tuple[_WellName, ...], Field(min_length=1)]
    column_names: Annotated[tuple[_WellName, ...], Field(min_length=1)]
    name: Annotated[str, Field(max_length=256)] | None = None

    @classmethod
    def of_size(cls, rows: int, columns: int, name: str | None = None) -> Plate:
        """A plate with rows A, B, …, Z, AA, … and columns 1, 2, …."""
        return cls(
            row_names=tuple(row_name(i) for i in range(rows)),
            column_names=tuple(str(i + 1) for i in range(columns)),
            name=name,
        )


def row_name(number: int) -> str:
    """The letters of a plate's row, numbered from 0: A, B, …, Z, AA, AB, …."""
    letters = ""
    while number >= 0:
        letters = chr(ord("A") + number % 26) + letters
        number = number // 26 - 1
    return letters


class Dimension(Checked):
    """One dimension: how many elements it has, how they are stored, and what they mean.

    ``count``: None means unbounded; it may be left out if there are ``coords``. ``chunk_size``: in elements; the
    default is the whole frame for the last two dimensions, and 1 for the others. ``shard_size_chunks``: in chunks; None
    means no sharding. ``scale``: the step between elements; ``translation``: the coordinate of the first one; both in
    ``unit``. ``coords``: what each element is: channels, positions, numbers or names. Evenly spaced numbers set
    ``scale`` and ``translation``.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
    count: _Count | None
    chunk_size: _Count | None = None
    shard_size_chunks: _Count | None = None
    type: DimensionType = "other"
    unit: Annotated[str, Field(max_length=64)] | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    translation: _Coordinate = 0.0
    coords: tuple[Channel, ...] | tuple[Position, ...] | tuple[float | str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_meaning(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        coords = value.get("coords")
        kind, unit = _USUAL.get(str(value.get("name")), ("other", None))
        if isinstance(coords, list | tuple):
            kind = next((_MEANINGS[type(c)] for c in coords if type(c) in _MEANINGS), kind)
        if value.get("type") is None:
            value["type"] = kind
        if value.get("unit") is None and value["type"] == kind:
            value["unit"] = unit
        elif isinstance(value.get("unit"), str):
            value["unit"] = _UNITS.get(value["unit"], value["unit"])
        if value.get("count") in ("inf", float("inf")):
            value["count"] = None
        elif isinstance(coords, list | tuple) and value.get("count") is None:
            value["count"] = len(coords)
        for number in ("scale", "translation"):
            if value.get(number) is None:
                value.pop(number, None)
        if isinstance(coords, list | tuple) and coords:
            value["coords"] = _typed(coords, str(value["type"]))
            _note_steps(value)
        return value

    @model_validator(mode="after")
    def _coords_fit(self) -> Dimension:
        if self.coords is None:
            return self
        if len(self.coords) != self.count:
            raise ValueError(f"{self.name!r} has {self.count} elements but {len(self.coords)} coords")
        for number, coordinate in enumerate(self.coords):
            if isinstance(coordinate, float) and not math.isfinite(coordinate):
                raise ValueError(f"coordinate {number} of {self.name!r} is {coordinate}")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each element, or its number if it has none. Only for bounded dimensions."""
        named = self.coords or (None,) * (self.count or 0)
        return tuple(_label(coordinate, number) for number, coordinate in enumerate(named))


_CHANNELS, _POSITIONS = TypeAdapter(tuple[Channel, ...]), TypeAdapter(tuple[Position, ...])
_MEANINGS: dict[type, DimensionType] = {Channel: "channel", Position: "position"}


def _typed(coords: Sequence[Any], kind: str) -> tuple[Any, ...]:
    """The coords as values of their dimension's type; pydantic rejects those that don't fit."""
    if kind == "channel":
        return _CHANNELS.validate_python(tuple(coords))
    if kind == "position":
        return _POSITIONS.validate_python(tuple(coords))
    named = kind not in ("space", "time")
    what = "numbers or names" if named else "numbers"
    fits = (int, float, str) if named else (int, float)
    odd = next((c for c in coords if not isinstance(c, fits) or isinstance(c, bool)), None)
    if odd is not None:
        raise ValueError(f"the coords of a {kind} dimension must be {what}, not {odd!r:.80}")
    return tuple(float(c) if isinstance(c, int) else c for c in coords)


def _note_steps(value: dict[str, Any]) -> None:
    """Set scale and translation from evenly spaced coordinates, unless they are given."""
    coords = value["coords"]
    if not all(isinstance(c, float) and math.isfinite(c) for c in coords):
        return
    steps = [b - a for a, b in pairwise(coords)]
    even = not steps or (steps[0] > 0 and max(steps) - min(steps) <= 1e-6 * steps[0])
    if even:
        value.setdefault("translation", coords[0])
    if even and steps:
        value.setdefault("scale", (coords[-1] - coords[0]) / len(steps))


def _label(coordinate: Channel | Position | float | str | None, number: int) -> str:
    if isinstance(coordinate, Channel | Position):
        return coordinate.name
    return str(number) if coordinate is None else f"{coordinate:g}" if isinstance(coordinate, float) else coordinate


_DIM = re.compile(
    r"^(?P<name>[A-Za-z][A-Za-z0-9_]{0,31}):(?P<count>inf|[0-9]+)(?::(?P<chunk>[0-9]*))?(?::(?P<shard>[0-9]*))?$"
)


def parse_dims(text: str) -> tuple[Dimension, ...]:
    """Parse ``name:count[:chunk[:shard]],…``: slowest dimension first, the frame's y and x last.

    The first dimension's ``count`` may be ``inf``. ``chunk`` is in elements, ``shard`` in chunks.
    Raises OmewdError ``bad_spec``, which names the part that does not parse.
    """
    remedy = "Write name:count[:chunk[:shard]] for each dimension, such as t:64:1:16,y:2048:256:8,x:2048:256:8"
    if not isinstance(text, str):
        raise OmewdError("bad_spec", f"the dimensions must be a string, not a {type(text).__name__}", remedy)
    dimensions = []
    for part in text.split(","):
        match = _DIM.match(part.strip())
        if match is None:
            raise OmewdError("bad_spec", f"{part.strip()!r:.80} in the dimensions {text!r:.200} does not parse", remedy)
        count, chunk, shard = match["count"], match["chunk"], match["shard"]
        numbers = [n for n in (count, chunk, shard) if n and n != "inf"]
        # Python raises an error of its own for thousands of digits.
        if any(len(n) > _MAX_DIGITS or not 1 <= int(n) <= MAX_COUNT for n in numbers):
            raise OmewdError("bad_spec", f"{part.strip()!r:.80}: every number must be from 1 to {MAX_COUNT}", remedy)
        dimensions.append(
            Dimension(
                name=match["name"],
                count=None if count == "inf" else int(count),
                chunk_size=int(chunk) if chunk else None,
                shard_size_chunks=int(shard) if shard else None,
            )
        )
    return tuple(dimensions)
