"""StreamSpec: everything that a user decides about one stream."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES, MAX_FRAMES
from omewd.model.spec.backend import AUTO, backend_name
from omewd.model.spec.checked import Checked
from omewd.model.spec.color import Color, check_samples, samples_of, with_samples
from omewd.model.spec.compression import canonical
from omewd.model.spec.dimensions import Dimension, Plate, Position, parse_dims
from omewd.model.spec.folders import unsuited
from omewd.model.spec.given import dtype_name, is_byte_name, path_text
from omewd.model.spec.outline import MAX_SOURCES, MAX_SPEC_BYTES

Backpressure = Literal["block", "drop", "fail"]
Durability = Literal["fsync", "none"]
ProducerLoss = Literal["finalize", "wait"]
DiskFull = Literal["wait", "fail"]
Downsample = Literal["mean", "nearest", "min", "max"]
PositionFolders = Literal["numbers", "names"]

MAX_FRAME_BYTES = 2**34
MAX_AXES = 5
MAX_LEVELS = 16
MAX_IMAGES = 10_000
# Each takes 0.5 to 2.5 ms to write, and is written at the start and at the end.
MAX_DOCUMENTS = 50_000
# A writer looks at each of them by itself.
MAX_FRAME_CHUNKS = 2**16
# Who reads one chunk reads the whole index first, of 16 bytes a chunk.
MAX_SHARD_CHUNKS = 2**24
_MOST_VALUES = 100_000

# OME-Zarr 0.5, "axes" metadata: time first, then channel or a custom axis, then space.
_STORAGE_RANK = {"time": 0, "channel": 1, "other": 1, "space": 2}


def _split_order(value: Any) -> Any:
    """An order that is no keyword: names with commas between, or a list of them."""
    if isinstance(value, str) and value not in ("ome", "acquisition"):
        return tuple(name.strip() for name in value.split(","))
    return value


def _refuse_heaps(value: Any) -> None:
    """Raise ValueError for what is far too much, before each element is looked at: that takes seconds."""
    left = _MOST_VALUES
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
            raise ValueError(f"a stream's specification is over the limit of {_MOST_VALUES} values")


def _parsed(dims: str) -> tuple[Dimension, ...]:
    try:
        return parse_dims(dims)
    except OmewdError as error:
        raise ValueError(f"dimensions: {error.message}") from error


class StreamSpec(Checked):
    """One stream: dimensions in acquisition order (slowest first, the frame's y and x last) and its policies.

    ``storage_order``: "ome" (time, channel, space), "acquisition", or the names of the dimensions outside the frame.
    ``plate``: what the wells are in that positions name. ``source_dimension``: the one that several producers feed, one
    for each element. ``levels``: resolutions that are written, each half of the one before, by ``downsample``: "mean",
    "min", "max", or "nearest" for labels. ``compression``: as in :mod:`omewd.model.spec.compression`.
    ``backend``: "auto", or one of :mod:`omewd.model.spec.backend`.
    ``position_folders``: what the folder of each position's image is called by, "numbers" or "names".
    ``on_producer_loss`` None: "wait" with several sources, else "finalize".

    ``color``: "rgb" or "rgba" for frames of (Y, X, 3 or 4), stored as planes along a channel dimension, which is made
    if there is none; "bayer-rggb" and its like for raw frames of such a sensor.

    ``dims`` in place of ``dimensions`` takes the text that :func:`omewd.parse_dims` does. Paths, numpy's numbers and
    numpy's dtypes are taken. Raises OmewdError ``bad_spec``.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    output: Annotated[str, Field(min_length=1, max_length=4096), BeforeValidator(path_text)] = ""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=6)]
    dtype: Annotated[str, BeforeValidator(dtype_name)] = "uint16"
    backend: Annotated[str, BeforeValidator(backend_name)] = AUTO
    compression: Annotated[str | None, BeforeValidator(canonical)] = None
    backpressure: Backpressure = "block"
    durability: Durability = "fsync"
    on_producer_loss: ProducerLoss | None = None
    on_disk_full: DiskFull = "wait"
    storage_order: Annotated[Literal["ome", "acquisition"] | tuple[str, ...], BeforeValidator(_split_order)] = "ome"
    plate: Plate | None = None
    source_dimension: str | None = None
    color: Color | None = None
    levels: Annotated[int, Field(ge=1, le=MAX_LEVELS)] = 1
    downsample: Downsample = "mean"
    position_folders: PositionFolders = "numbers"
    overwrite: bool = False
    ring_slots: Annotated[int, Field(ge=1, le=2**24)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, value: Any) -> Any:
        _refuse_heaps(value)
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "dims" in value:
            if "dimensions" in value:
                raise ValueError("dims and dimensions say the same: give one of them")
            value["dimensions"] = value.pop("dims")
        if isinstance(value.get("dimensions"), str):
            value["dimensions"] = _parsed(value["dimensions"])
        if not value.get("output") and isinstance(value.get("name"), str):
            value["output"] = f"{value['name']}.ome.zarr"
        if value.get("color") is not None and "dimensions" in value:
            is_byte = is_byte_name(value.get("dtype"))
            value["dimensions"] = with_samples(value["dimensions"], value["color"], is_byte=is_byte)
        return value

    @model_validator(mode="after")
    def _dimensions_make_an_image(self) -> StreamSpec:
        if "\0" in self.output:
            raise ValueError("output: a path holds no NUL")
        dims = self.dimensions
        doubled = [name for name, times in Counter(d.name for d in dims).items() if times > 1]
        if doubled:
            raise ValueError(f"dimensions: the name {doubled[0]!r} is used more than once")
        outer = dims[:-2]
        unbounded = [dim for dim in dims if dim.count is None]
        first = next((dim for dim in outer if dim.name != self.source_dimension), None)
        if unbounded and (unbounded != [first] or unbounded[0].type == "position"):
            raise ValueError(
                "dimensions: only the first may be unbounded, and not a frame's or the positions; "
                f"{unbounded[-1].name!r} is"
            )
        for dim in outer:
            if dim.type == "position" and (dim.chunk_size or 1) * (dim.shard_size_chunks or 1) != 1:
                raise ValueError(
                    f"dimensions: each position is an image of its own: no chunks or shards of {dim.name!r}"
                )
        for dim in dims[-2:]:
            if dim.type != "space":
                raise ValueError(f"dimensions: the last two are the frame's y and x, in space; {dim.name!r} is not")
            pixels, chunk, shard = dim.count or 1, dim.chunk_size or dim.count or 1, dim.shard_size_chunks or 1
            if chunk > pixels or shard > -(-pixels // chunk):
                raise ValueError(
                    f"dimensions: {shard} chunks of {chunk} reach past the frame's {pixels} pixels along {dim.name!r}"
                )
        kinds = Counter(d.type for d in dims)
        one_each = all(kinds[kind] <= 1 for kind in ("time", "channel", "other", "position"))
        if kinds["space"] > 3 or not one_each or len(dims) - kinds["position"] > MAX_AXES:
            raise ValueError(
                f"dimensions: OME-Zarr 0.5 takes {MAX_AXES}: 2 or 3 of space, at most one each of time, channel and "
                "another type; and omewd one of positions beside them; "
                f"these are {', '.join(f'{d.name} ({d.type})' for d in dims)}"
            )
        self._check_counts()
        self._check_storage_order()
        self._check_positions()
        self._check_folders()
        self._check_sources()
        check_samples(dims, self.color, self.source_dimension)
        most = (max(self.frame_shape) - 1).bit_length() + 1
        if self.levels > most:
            raise ValueError(
                f"levels: a frame of {self.frame_shape} can be halved {most - 1} times: ask for {most} levels"
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

    def _check_counts(self) -> None:
        """Refuse more of anything than can be handled one by one."""
        images = self.images
        if images > MAX_IMAGES:
            raise ValueError(f"dimensions: {images} positions are over the limit of {MAX_IMAGES} in one dataset")
        documents = images * (self.levels + 1)
        if documents > MAX_DOCUMENTS:
            raise ValueError(
                f"levels: {images} images with {self.levels} levels have {documents} zarr.json files, over the limit "
                f"of {MAX_DOCUMENTS}: use fewer levels or positions"
            )
        chunks = math.prod(-(-(d.count or 1) // (d.chunk_size or d.count or 1)) for d in self.dimensions[-2:])
        if chunks > MAX_FRAME_CHUNKS:
            raise ValueError(
                f"dimensions: a frame cut into {chunks} chunks is over the limit of {MAX_FRAME_CHUNKS}: use larger ones"
            )

        per_shard = math.prod(d.shard_size_chunks or 1 for d in self.dimensions)
        if per_shard > MAX_SHARD_CHUNKS:
            raise ValueError(f"dimensions: shards of {per_shard} chunks are over the limit of {MAX_SHARD_CHUNKS}")

    def _check_storage_order(self) -> None:
        self._check_storage_names()
        untyped = [d.name for d, kind in zip(self.disk_dimensions, self.disk_types, strict=True) if kind is None]
        if len(untyped) > 1:
            raise ValueError(
                "storage_order: OME-Zarr 0.5 puts time first and space last, and has room for one axis that is neither "
                f"nor a channel; stored as {', '.join(d.name for d in self.disk_dimensions)} there would be "
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
                f"storage_order: {','.join(self.storage_order)} has to name {', '.join(outer) or 'nothing'} once each; "
                f"the frame's {y}, {x} stay last"
            )

    def _check_positions(self) -> None:
        if self.plate is None and all(d.coords is None for d in self.position_dimensions):
            return  # they are called by their numbers
        positions = self.positions
        names = Counter((p.plate_row, p.plate_column, p.grid_row, p.grid_column, p.name) for p in positions)
        doubled = [name[-1] for name, times in names.items() if times > 1]
        if doubled:
            raise ValueError(f"dimensions: the position {doubled[0]!r} is there more than once")
        if self.plate is None:
            return
        if not positions or any(p.plate_row is None for p in positions):
            raise ValueError(
                "plate: positions have to say in which well they are: give a position dimension with coords that have "
                "plate_row and plate_column"
            )
        plate = self.plate
        for names_of, which in ((plate.row_names, "row"), (plate.column_names, "column")):
            if len(set(names_of)) < len(names_of):
                raise ValueError(f"plate: a {which} is there more than once")
            strange = {str(getattr(p, f"plate_{which}")) for p in positions} - set(names_of)
            if strange:
                raise ValueError(f"plate: it has no {which} {sorted(strange)[0]!r}, which a position is in")

    def _check_folders(self) -> None:
        if self.position_folders == "names" and any(d.coords for d in self.position_dimensions):
            fault = unsuited(self.positions, in_wells=self.plate is not None)
            if fault is not None:
                raise ValueError(f"position_folders: {fault}: use `position_folders='numbers'`")

    def _check_sources(self) -> None:
        if self.source_dimension is None:
            return
        dim = next((d for d in self.dimensions[:-2] if d.name == self.source_dimension), None)
        if dim is None:
            outer = ", ".join(d.name for d in self.dimensions[:-2]) or "none"
            raise ValueError(
                f"source_dimension: {self.source_dimension!r} is no dimension outside the frame (there are: {outer})"
            )
        if dim.count is None or dim.count > MAX_SOURCES:
            raise ValueError(f"source_dimension: {dim.name!r} has to have 1 to {MAX_SOURCES} elements, one a producer")
        if (dim.chunk_size or 1) * (dim.shard_size_chunks or 1) != 1:
            raise ValueError(
                f"source_dimension: each producer writes its own chunks: no chunks or shards of {dim.name!r}"
            )
        if len(set(dim.labels)) < len(dim.labels):
            raise ValueError(f"source_dimension: two elements of {dim.name!r} have the same name")

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        height, width = (d.count for d in self.dimensions[-2:])
        assert height is not None
        assert width is not None
        return height, width

    @property
    def samples(self) -> int:
        """How many planes, each a frame of its own, a camera's frame is: 3 or 4 in colour, else 1."""
        return samples_of(self.color)

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.frame_shape) * ITEM_BYTES[self.dtype]

    @property
    def sharded(self) -> bool:
        return any(d.shard_size_chunks is not None for d in self.dimensions)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Inner chunk in elements, in acquisition order."""
        frame = len(self.dimensions) - 2
        return tuple(d.chunk_size or (1 if i < frame else d.count or 1) for i, d in enumerate(self.dimensions))

    @property
    def key_shape(self) -> tuple[int, ...]:
        """What one key of the store holds (a shard, or a chunk), in elements, in acquisition order."""
        shards = [d.shard_size_chunks or 1 for d in self.dimensions]
        return tuple(c * s for c, s in zip(self.chunk_shape, shards, strict=True))

    @property
    def position_dimensions(self) -> tuple[Dimension, ...]:
        """The dimension of positions, if there is one."""
        return tuple(d for d in self.dimensions if d.type == "position")

    @property
    def positions(self) -> tuple[Position, ...]:
        """The stage positions, each an image of its own; none without a dimension of positions."""
        for dim in self.position_dimensions:
            return tuple(
                coordinate if isinstance(coordinate, Position) else Position(name=label)
                for coordinate, label in zip(dim.coords or (None,) * (dim.count or 0), dim.labels, strict=True)
            )
        return ()

    @property
    def images(self) -> int:
        """How many images the dataset has."""
        return math.prod(d.count or 1 for d in self.position_dimensions)

    @property
    def source_axis(self) -> int | None:
        """The number of the dimension that several producers feed."""
        return next((i for i, d in enumerate(self.dimensions) if d.name == self.source_dimension), None)

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the producers are called, by number; one without a name where there is only one."""
        return ("",) if self.source_axis is None else self.dimensions[self.source_axis].labels

    @property
    def sources(self) -> int:
        """How many producers feed the stream, each through a ring of its own."""
        return len(self.source_names)

    @property
    def waits_for_producer(self) -> bool:
        """Whether a producer that dies may come back."""
        return (self.on_producer_loss or ("finalize" if self.source_axis is None else "wait")) == "wait"

    @property
    def disk_order(self) -> tuple[int, ...]:
        """For each axis on disk, the number of the dimension (acquisition order) that it is.

        OME-Zarr 0.5 wants time, then channel, then space; the frame's own two stay last. Positions are no axis.
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
        """The type that each axis on disk can have by its place: time first, space last; None where it has none.

        (OME-Zarr 0.5, "axes". A dimension of another type is such an axis, too.)
        """
        dims = self.disk_dimensions
        types: list[str | None] = []
        for i, dim in enumerate(dims):
            in_place = {"time": i == 0, "channel": True, "space": all(after.type == "space" for after in dims[i:])}
            types.append(dim.type if in_place.get(dim.type) else None)
        return tuple(types)

    def stored(self, per_dimension: tuple[int, ...]) -> tuple[int, ...]:
        """A tuple in acquisition order put into the order on disk."""
        return tuple(per_dimension[i] for i in self.disk_order)
