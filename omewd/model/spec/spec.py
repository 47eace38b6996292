"""StreamSpec: everything that a user decides about one stream."""

from __future__ import annotations

import math
from collections import Counter
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES, MAX_FRAMES
from omewd.model.spec.backend import AUTO, backend_name
from omewd.model.spec.checked import Checked
from omewd.model.spec.color import Color, check_samples, samples_of, with_samples
from omewd.model.spec.compression import canonical
from omewd.model.spec.dimensions import Dimension, Plate, Position, parse_dims
from omewd.model.spec.folders import folder_problem, named, numbered
from omewd.model.spec.limits import check_counts
from omewd.model.spec.outline import MAX_SPEC_BYTES
from omewd.model.spec.sources import check_sources, elements_of, names_in
from omewd.model.spec.spellings import copy_url, dtype_name, is_uint8, path_text, stream_name

Backpressure = Literal["block", "drop", "fail"]
Durability = Literal["fsync", "none"]
ProducerLoss = Literal["finalize", "wait"]
DiskFull = Literal["wait", "fail"]
Downsample = Literal["mean", "nearest", "min", "max"]
PositionFolders = Literal["numbers", "names"]

MAX_FRAME_BYTES = 2**34
MAX_AXES = 5
MAX_LEVELS = 16
_MAX_VALUES = 100_000

# OME-Zarr 0.5, "axes" metadata: time first, then channel or a custom axis, then space.
_STORAGE_RANK = {"time": 0, "channel": 1, "other": 1, "space": 2}


def _split_order(value: Any) -> Any:
    """Split comma-separated names; keywords and lists stay as they are."""
    if isinstance(value, str) and value not in ("ome", "acquisition"):
        return tuple(name.strip() for name in value.split(","))
    return value


def _limit_values(value: Any) -> None:
    """Raise ValueError for far too many values before each one is validated, which would take seconds."""
    left = _MAX_VALUES
    level = [value]
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        left -= len(level)
        if left < 0:
            raise ValueError(f"a stream's specification is over the limit of {_MAX_VALUES} values")


def _parsed(dims: str) -> tuple[Dimension, ...]:
    try:
        return parse_dims(dims)
    except OmewdError as error:
        raise ValueError(f"dimensions: {error.message}") from error


class StreamSpec(Checked):
    """One stream: its dimensions in acquisition order (slowest first, the frame's y and x last) and its policies.

    ``storage_order``: "ome" (time, channel, space), "acquisition", or the names of the dimensions outside the frame.
    ``plate``: the plate whose wells the positions name. ``source_dimension``: the dimension whose elements each have a
    producer of their own. ``own_sources``: the names of those whose producers are here; others are with other daemons,
    each of which records a part of the acquisition. ``levels``: the number of resolutions, each half the size of the
    one before. ``downsample``: how pixels are combined for them: "mean", "min", "max", or "nearest" (for labels).
    ``compression``: see :mod:`omewd.model.spec.compression`. ``backend``: "auto", or one of
    :mod:`omewd.model.spec.backend`.
    ``position_folders``: whether "numbers" or "names" name the folders of the positions' images.
    ``on_producer_loss``: None means "wait" with several sources, else "finalize". ``on_disk_full``: "wait" for space,
    or "fail". A stream whose declared frames can't fit on the disk is refused, unless this is "wait". None is refused
    like "fail", and waits like "wait". ``expect_fps``: the frames a second of each camera. One that misses several is
    reported as silent; without it, that goes by the rate so far.

    ``copy_to``: the URL to which the dataset is copied during the stream (see :mod:`omewd.model.address`).
    ``copy_limit``: the most bytes a second that are sent. ``copy_live``: the copy gets its metadata early, so that it
    can be opened before it is complete. ``copy_evict``: each file of keys is removed from the dataset once its copy is
    confirmed, so that a run may be larger than the drive.

    ``color``: "rgb" or "rgba" for frames of shape (Y, X, 3 or 4). They are stored as planes along a channel dimension,
    which omewd adds if there is none. "bayer-rggb", "bayer-grbg", "bayer-gbrg" or "bayer-bggr" for raw Bayer frames.

    ``dims`` takes text for :func:`omewd.parse_dims` in place of ``dimensions``. Paths, numpy numbers and numpy dtypes
    are accepted. Raises OmewdError ``bad_spec``.
    """

    name: Annotated[str, AfterValidator(stream_name)]
    output: Annotated[str, Field(min_length=1, max_length=4096), BeforeValidator(path_text)] = ""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=6)]
    dtype: Annotated[str, BeforeValidator(dtype_name)] = "uint16"
    backend: Annotated[str, BeforeValidator(backend_name)] = AUTO
    compression: Annotated[str | None, BeforeValidator(canonical)] = None
    backpressure: Backpressure = "block"
    durability: Durability = "fsync"
    on_producer_loss: ProducerLoss | None = None
    on_disk_full: DiskFull | None = None
    storage_order: Annotated[Literal["ome", "acquisition"] | tuple[str, ...], BeforeValidator(_split_order)] = "ome"
    plate: Plate | None = None
    source_dimension: str | None = None
    own_sources: Annotated[tuple[str, ...], BeforeValidator(names_in)] | None = None
    color: Color | None = None
    levels: Annotated[int, Field(ge=1, le=MAX_LEVELS)] = 1
    downsample: Downsample = "mean"
    position_folders: PositionFolders = "numbers"
    overwrite: bool = False
    expect_fps: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    ring_slots: Annotated[int, Field(ge=1, le=2**24)] | None = None
    copy_to: Annotated[str, AfterValidator(copy_url)] | None = None
    copy_limit: Annotated[float, Field(ge=1, le=1e15, allow_inf_nan=False)] | None = None
    copy_live: bool = False
    copy_evict: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        _limit_values(value)
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "dims" in value:
            if "dimensions" in value:
                raise ValueError("dims and dimensions mean the same: give only one of them")
            value["dimensions"] = value.pop("dims")
        if isinstance(value.get("dimensions"), str):
            value["dimensions"] = _parsed(value["dimensions"])
        if not value.get("output") and isinstance(value.get("name"), str):
            value["output"] = f"{value['name']}.ome.zarr"
        if value.get("color") is not None and "dimensions" in value:
            uint8 = is_uint8(value.get("dtype"))
            value["dimensions"] = with_samples(value["dimensions"], value["color"], uint8=uint8)
        return value

    @model_validator(mode="after")
    def _check(self) -> StreamSpec:
        if "\0" in self.output:
            raise ValueError("output: a path can't contain NUL")
        if self.copy_evict and self.copy_to is None:
            raise ValueError("copy_evict: files are only removed once they are copied, so `copy_to` must name a URL")
        dims = self.dimensions
        doubled = [name for name, times in Counter(d.name for d in dims).items() if times > 1]
        if doubled:
            raise ValueError(f"dimensions: the name {doubled[0]!r} is used more than once")
        outer = dims[:-2]
        unbounded = [dim for dim in dims if dim.count is None]
        first = next((dim for dim in outer if dim.name != self.source_dimension), None)
        if unbounded and (unbounded != [first] or unbounded[0].type == "position"):
            raise ValueError(
                f"dimensions: {unbounded[-1].name!r} can't be unbounded; only the first dimension outside the frame "
                "can be, and not one of positions"
            )
        for dim in outer:
            if dim.type == "position" and (dim.chunk_size or 1) * (dim.shard_size_chunks or 1) != 1:
                raise ValueError(
                    f"dimensions: each position is an image of its own, so {dim.name!r} takes no chunks or shards"
                )
        for dim in dims[-2:]:
            if dim.type != "space":
                raise ValueError(
                    f"dimensions: the last two must be the frame's y and x, of type space; {dim.name!r} is not. "
                    "Give the slowest first, as in t:100,y:512,x:512"
                )
            pixels, chunk, shard = dim.count or 1, dim.chunk_size or dim.count or 1, dim.shard_size_chunks or 1
            if chunk > pixels or shard > -(-pixels // chunk):
                raise ValueError(
                    f"dimensions: {shard} chunks of {chunk} reach past the frame's {pixels} pixels along {dim.name!r}"
                )
        kinds = Counter(d.type for d in dims)
        one_each = all(kinds[kind] <= 1 for kind in ("time", "channel", "other", "position"))
        if kinds["space"] > 3 or not one_each or len(dims) - kinds["position"] > MAX_AXES:
            raise ValueError(
                f"dimensions: OME-Zarr 0.5 takes at most {MAX_AXES}: 2 or 3 of type space, and at most one each of "
                "time, channel and another type; omewd takes one of positions in addition; "
                f"these are {', '.join(f'{d.name} ({d.type})' for d in dims)}"
            )
        check_counts(
            images=self.images,
            levels=self.levels,
            frame_chunks=math.prod(-(-(d.count or 1) // (d.chunk_size or d.count or 1)) for d in dims[-2:]),
            shard_chunks=math.prod(d.shard_size_chunks or 1 for d in dims),
        )
        self._check_storage_order()
        self._check_positions()
        self._check_folders()
        check_sources(dims, self.source_dimension, self.own_sources)
        if self.copy_to is None and (self.copy_live or self.copy_limit is not None):
            raise ValueError("copy_to: it must say where the copy goes, if other settings say how it is made")
        if self.copy_live and self.is_part:
            raise ValueError(
                "copy_live: a copy of sources that several daemons have (own_sources) opens once all are in it"
            )
        check_samples(dims, self.color, self.source_dimension)
        most = (max(self.frame_shape) - 1).bit_length() + 1
        if self.levels > most:
            raise ValueError(
                f"levels: a frame of {self.frame_shape} can be halved {most - 1} times: ask for at most {most} levels"
            )
        if self.frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"dimensions: a frame of {self.frame_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
        frames = math.prod(d.count or 1 for d in dims[:-2])
        if frames > MAX_FRAMES:
            raise ValueError(f"dimensions: {frames} frames are over the limit of {MAX_FRAMES}")
        size = len(self.model_dump_json())
        if size > MAX_SPEC_BYTES:
            raise ValueError(f"a stream's specification of {size} bytes is over the limit of {MAX_SPEC_BYTES}")
        return self

    def _check_storage_order(self) -> None:
        self._check_storage_names()
        untyped = [d.name for d, kind in zip(self.disk_dimensions, self.disk_types, strict=True) if kind is None]
        if len(untyped) > 1:
            raise ValueError(
                "storage_order: OME-Zarr 0.5 puts time first and space last, and allows one axis that is neither of "
                f"these nor a channel; the order {', '.join(d.name for d in self.disk_dimensions)} would have "
                f"{len(untyped)} ({', '.join(untyped)}): use storage_order ome"
            )

    def _check_storage_names(self) -> None:
        if isinstance(self.storage_order, str):
            return
        *outer, y, x = (d.name for d in self.dimensions if d.type != "position")
        given = [name for name in self.storage_order if name not in {d.name for d in self.position_dimensions}]
        if given[-2:] == [y, x]:
            del given[-2:]
        if sorted(given) != sorted(outer):
            raise ValueError(
                f"storage_order: {','.join(self.storage_order)} must name {', '.join(outer) or 'nothing'} once each; "
                f"the frame's {y} and {x} stay last"
            )

    def _check_positions(self) -> None:
        if self.plate is None and all(d.coords is None for d in self.position_dimensions):
            return  # numbers are their names
        names = Counter((p.plate_row, p.plate_column, p.grid_row, p.grid_column, p.name) for p in self.positions)
        doubled = [name[-1] for name, times in names.items() if times > 1]
        if doubled:
            raise ValueError(f"dimensions: there is more than one position {doubled[0]!r}")
        if self.plate is None:
            return
        if not self.positions or any(p.plate_row is None for p in self.positions):
            raise ValueError(
                "plate: every position must name its well: give a position dimension whose coords have plate_row and "
                "plate_column"
            )
        plate = self.plate
        for names_of, which in ((plate.row_names, "row"), (plate.column_names, "column")):
            if len(set(names_of)) < len(names_of):
                raise ValueError(f"plate: two {which}s have the same name")
            strange = {str(getattr(p, f"plate_{which}")) for p in self.positions} - set(names_of)
            if strange:
                raise ValueError(f"plate: a position is in {which} {sorted(strange)[0]!r}, which the plate lacks")

    def _check_folders(self) -> None:
        if self.position_folders == "names" and any(d.coords for d in self.position_dimensions):
            fault = folder_problem(self.positions, in_wells=self.plate is not None)
            if fault is not None:
                raise ValueError(f"position_folders: {fault}: use `position_folders='numbers'`")

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        height, width = (d.count for d in self.dimensions[-2:])
        assert height is not None
        assert width is not None
        return height, width

    @property
    def samples(self) -> int:
        """The number of planes in a camera's frame, each stored as a frame: 3 or 4 in colour, else 1."""
        return samples_of(self.color)

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.frame_shape) * ITEM_BYTES[self.dtype]

    @property
    def sharded(self) -> bool:
        return any(d.shard_size_chunks is not None for d in self.dimensions)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The inner chunk in elements, in acquisition order."""
        frame = len(self.dimensions) - 2
        return tuple(d.chunk_size or (1 if i < frame else d.count or 1) for i, d in enumerate(self.dimensions))

    @property
    def key_shape(self) -> tuple[int, ...]:
        """The extent of one key (a shard, or a chunk) in elements, in acquisition order."""
        shards = [d.shard_size_chunks or 1 for d in self.dimensions]
        return tuple(c * s for c, s in zip(self.chunk_shape, shards, strict=True))

    @property
    def position_dimensions(self) -> tuple[Dimension, ...]:
        """The dimension of positions, if there is one."""
        return tuple(d for d in self.dimensions if d.type == "position")

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The stage positions, each an image of its own; none without a position dimension."""
        for dim in self.position_dimensions:
            return tuple(
                coordinate if isinstance(coordinate, Position) else Position(name=label)
                for coordinate, label in zip(dim.coords or (None,) * (dim.count or 0), dim.labels, strict=True)
            )
        return ()

    @cached_property
    def image_paths(self) -> tuple[str, ...]:
        """The folder of each image in the dataset; "" is the dataset itself."""
        folders = named if self.position_folders == "names" else numbered
        return folders(self.positions, in_wells=self.plate is not None) if self.position_dimensions else ("",)

    @property
    def images(self) -> int:
        """How many images the dataset has."""
        return math.prod(d.count or 1 for d in self.position_dimensions)

    @property
    def source_axis(self) -> int | None:
        """The index of the source dimension; None if there is none."""
        return next((i for i, d in enumerate(self.dimensions) if d.name == self.source_dimension), None)

    @property
    def source_elements(self) -> tuple[int, ...]:
        """For each source, its element of the source dimension, in ascending order."""
        if self.source_axis is None:
            return (0,)
        return elements_of(self.dimensions[self.source_axis].labels, self.own_sources)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of the sources; the only source of a stream has an empty name."""
        if self.source_axis is None:
            return ("",)
        return tuple(self.dimensions[self.source_axis].labels[n] for n in self.source_elements)

    @property
    def sources(self) -> int:
        """The number of sources, each with a ring and a producer of its own."""
        return len(self.source_elements)

    @property
    def is_part(self) -> bool:
        """Whether other daemons have some of the sources, so that a dataset is a part of the acquisition."""
        return self.source_axis is not None and self.sources != self.dimensions[self.source_axis].count

    @property
    def waits_for_producer(self) -> bool:
        """Whether a producer that dies may come back."""
        return (self.on_producer_loss or ("finalize" if self.source_axis is None else "wait")) == "wait"

    @property
    def disk_order(self) -> tuple[int, ...]:
        """For each axis on disk, the index of its dimension in acquisition order.

        OME-Zarr 0.5 wants time, then channel, then space. The frame's y and x stay last. Positions are not an axis.
        """
        dims, frame = self.dimensions, len(self.dimensions) - 2
        outer = [i for i in range(frame) if dims[i].type != "position"]
        order = self.storage_order
        if order == "ome":
            outer.sort(key=lambda i: _STORAGE_RANK[dims[i].type])
        elif order != "acquisition":
            outer.sort(key=lambda i: order.index(dims[i].name))
        return (*outer, frame, frame + 1)

    @property
    def disk_dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions in the order of the axes on disk."""
        return tuple(self.dimensions[i] for i in self.disk_order)

    @property
    def disk_types(self) -> tuple[str | None, ...]:
        """The OME-Zarr type of each axis on disk; None for an axis that can't have its type where it is.

        Time must be first and space last (OME-Zarr 0.5, "axes"). Dimensions of another type have None, too.
        """
        dims = self.disk_dimensions
        types: list[str | None] = []
        for i, dim in enumerate(dims):
            in_place = {"time": i == 0, "channel": True, "space": all(after.type == "space" for after in dims[i:])}
            types.append(dim.type if in_place.get(dim.type) else None)
        return tuple(types)

    def stored(self, per_dimension: tuple[int, ...]) -> tuple[int, ...]:
        """Reorder a tuple from acquisition order to the order on disk."""
        return tuple(per_dimension[i] for i in self.disk_order)
