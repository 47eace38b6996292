"""StreamSpec: everything that a user decides about one stream."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from omewd.errors import OmewdError
from omewd.model.dimensions import Dimension
from omewd.model.dtypes import ITEM_BYTES, MAX_FRAMES

Backend = Literal["auto", "direct", "tensorstore", "zarr-python", "zarrs-python", "acquire-zarr"]
DIRECT = "direct"  # omewd's own encoder: the one whose write units are chunks, not shards
Compression = Literal["blosc-lz4", "blosc-zstd", "zstd"]
Backpressure = Literal["block", "drop", "fail"]
Durability = Literal["fsync", "none"]
ProducerLoss = Literal["finalize", "wait"]
DiskFull = Literal["wait", "fail"]

MAX_FRAME_BYTES = 2**34
_COMPLAINT_LENGTH = 2000
# A spec goes to the writers in one control message, with paths beside it.
MAX_SPEC_BYTES = 2**16

# OME-Zarr 0.5, "axes" metadata: time first, then channel or a custom axis, then space.
_STORAGE_RANK = {"time": 0, "channel": 1, "other": 1, "space": 2}


def _dtype_name(value: Any) -> str:
    """Any spelling of a dtype that numpy knows, as its name; numpy is only imported for the unusual ones."""
    if isinstance(value, str) and value in ITEM_BYTES:
        return value
    if value is None:  # numpy takes it for float64
        raise ValueError("not a dtype")
    import numpy as np

    try:
        name: str = np.dtype(value).name
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:
        raise ValueError(f"not a dtype: {error}") from error
    if name not in ITEM_BYTES:
        raise ValueError(f"pixels of dtype {name} can't be stored; it is one of {', '.join(ITEM_BYTES)}")
    return name


class StreamSpec(BaseModel):
    """One stream: dimensions in acquisition order (slowest first, the frame's y and x last) and its policies.

    Raises OmewdError ``bad_spec`` from :meth:`parse`, pydantic's ValidationError from the constructor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    output: Annotated[str, Field(min_length=1, max_length=4096)] = ""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=5)]
    dtype: Annotated[str, BeforeValidator(_dtype_name)] = "uint16"
    backend: Backend = "auto"
    compression: Annotated[Compression | None, BeforeValidator(lambda v: None if v == "none" else v)] = None
    backpressure: Backpressure = "block"
    durability: Durability = "fsync"
    on_producer_loss: ProducerLoss = "finalize"
    on_disk_full: DiskFull = "wait"
    overwrite: bool = False
    ring_slots: Annotated[int, Field(ge=1, le=2**24)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("output") and isinstance(value.get("name"), str):
            value = {**value, "output": f"{value['name']}.ome.zarr"}
        return value

    @model_validator(mode="after")
    def _dimensions_make_an_image(self) -> StreamSpec:
        if "\0" in self.output:
            raise ValueError("output: a path holds no NUL")
        dims = self.dimensions
        doubled = [name for name, times in Counter(d.name for d in dims).items() if times > 1]
        if doubled:
            raise ValueError(f"dimensions: the name {doubled[0]!r} is used more than once")
        for position, dim in enumerate(dims):
            if dim.type == "position":
                raise ValueError(
                    f"dimensions: {dim.name!r} is a position dimension; one stream is one image: "
                    "open a stream for each position"
                )
            if dim.count is None and (position > 0 or len(dims) == 2):
                raise ValueError(f"dimensions: only the first may be unbounded, and not a frame's; {dim.name!r} is")
        for dim in dims[-2:]:
            if dim.type != "space":
                raise ValueError(f"dimensions: the last two are the frame's y and x, in space; {dim.name!r} is not")
            pixels, chunk, shard = dim.count or 1, dim.chunk_size or dim.count or 1, dim.shard_size_chunks or 1
            if chunk > pixels or shard > -(-pixels // chunk):
                raise ValueError(
                    f"dimensions: {shard} chunks of {chunk} reach past the frame's {pixels} pixels along {dim.name!r}"
                )
        kinds = Counter(d.type for d in dims)
        if kinds["space"] > 3 or kinds["time"] > 1 or kinds["channel"] + kinds["other"] > 1:
            raise ValueError(
                "dimensions: OME-Zarr 0.5 takes 2 or 3 of space, at most one of time and one of channel or another "
                f"type; these are {', '.join(f'{d.name} ({d.type})' for d in dims)}"
            )
        if self.frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"dimensions: a frame of {self.frame_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
        frames = math.prod(d.count or 1 for d in dims[:-2])
        if frames > MAX_FRAMES:
            raise ValueError(f"dimensions: {frames} frames are over the limit of {MAX_FRAMES}")
        size = len(json.dumps(self.model_dump(mode="json")))
        if size > MAX_SPEC_BYTES:
            raise ValueError(f"a stream's specification of {size} bytes is over the limit of {MAX_SPEC_BYTES}")
        return self

    @classmethod
    def parse(cls, fields: Any) -> StreamSpec:
        """A spec out of untrusted fields; raises OmewdError ``bad_spec`` with every complaint in one line."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise OmewdError("bad_spec", _one_line(error)) from error

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        height, width = (d.count for d in self.dimensions[-2:])
        assert height is not None
        assert width is not None
        return height, width

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
    def storage_order(self) -> tuple[int, ...]:
        """For each axis on disk, the number of the dimension (acquisition order) that it is.

        OME-Zarr 0.5 wants time, then channel, then space; the frame's own two stay last.
        """
        frame = len(self.dimensions) - 2
        outer = sorted(range(frame), key=lambda i: _STORAGE_RANK[self.dimensions[i].type])
        return (*outer, frame, frame + 1)

    @property
    def storage_dimensions(self) -> tuple[Dimension, ...]:
        return tuple(self.dimensions[i] for i in self.storage_order)

    def stored(self, per_dimension: tuple[int, ...]) -> tuple[int, ...]:
        """A tuple in acquisition order put into storage order."""
        return tuple(per_dimension[i] for i in self.storage_order)


def _one_line(error: ValidationError) -> str:
    complaints = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        given = (
            "" if isinstance(item["input"], dict | list | tuple) or not where else f" (given: {item['input']!r:.80})"
        )
        complaints.append(f"{where}: {text}{given}" if where else text)
    text = "; ".join(complaints)
    return text if len(text) <= _COMPLAINT_LENGTH else f"{text[:_COMPLAINT_LENGTH]} … ({len(complaints)} complaints)"
