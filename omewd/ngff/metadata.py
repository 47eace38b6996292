"""The zarr.json files of a dataset: Zarr v3 core spec for arrays and groups, OME-Zarr 0.5 for their meaning.

Sources: Zarr v3 core specification ("Array metadata", "Group metadata"), the sharding codec
(ZEP 2, "sharding_indexed"), https://ngff.openmicroscopy.org/0.5 ("axes", "multiscales", "omero").
"""

from __future__ import annotations

from typing import Any

from yaozarrs import v05

from omewd.model.dimensions import Channel, Dimension
from omewd.model.plan import Plan
from omewd.model.shards import ShardPlace
from omewd.model.spec import StreamSpec
from omewd.ngff.codecs import array_document

ARRAY_PATH = "0"


def outer_shape_on_disk(spec: StreamSpec, frames: int) -> tuple[int, ...]:
    plan = Plan.of(spec)
    shape = plan.outer_shape(frames)
    return tuple(shape[i] for i in plan.order)


def shape_on_disk(spec: StreamSpec, frames: int) -> tuple[int, ...]:
    """The array's shape when it holds the first ``frames`` frames; without any, its first axis is empty."""
    shape = (*outer_shape_on_disk(spec, frames), *spec.frame_shape)
    return shape if frames or len(shape) > 2 else (0, shape[1])


def key_of(keys: Plan, place: ShardPlace) -> str:
    """The path of a key ("default" chunk key encoding) in the dataset; ``keys``: the plan whose units are keys."""
    outer = keys.block_on_disk(place.unit)
    return "/".join([ARRAY_PATH, "c", *map(str, outer), str(place.row), str(place.column)])


def array_json(spec: StreamSpec, frames: int) -> dict[str, Any]:
    """The zarr.json of the image array, claiming the first ``frames`` frames."""
    return array_document(
        shape=shape_on_disk(spec, frames),
        key_shape=spec.stored(spec.key_shape),
        chunk_shape=spec.stored(spec.chunk_shape),
        dtype=spec.dtype,
        compression=spec.compression,
        sharded=spec.sharded,
        dimension_names=tuple(d.name for d in spec.storage_dimensions),
    )


def image_group_json(spec: StreamSpec, frames: int) -> dict[str, Any]:
    """The zarr.json of the image group: one multiscale with axes, units, scales, and channels."""
    dimensions = spec.storage_dimensions
    multiscale = v05.Multiscale(
        name=spec.name,
        axes=[_axis(d) for d in dimensions],
        datasets=[
            v05.Dataset(
                path=ARRAY_PATH,
                coordinateTransformations=[v05.ScaleTransformation(scale=[d.scale for d in dimensions])],
            )
        ],
    )
    image = v05.Image(multiscales=[multiscale], omero=_omero(spec, frames))
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": image.model_dump(mode="json", exclude_none=True)},
    }


def _axis(dimension: Dimension) -> Any:
    match dimension.type:
        case "time":
            return v05.TimeAxis(name=dimension.name, unit=dimension.unit)
        case "space":
            return v05.SpaceAxis(name=dimension.name, unit=dimension.unit)
        case "channel":
            return v05.ChannelAxis(name=dimension.name, unit=dimension.unit)
        case _:
            return v05.CustomAxis(name=dimension.name, type=dimension.type, unit=dimension.unit)


def _omero(spec: StreamSpec, frames: int) -> v05.Omero | None:
    """Rendering hints, for channels that have names. The window is what an integer camera can give."""
    sizes = outer_shape_on_disk(spec, frames)
    for axis, dimension in enumerate(spec.storage_dimensions[:-2]):
        if dimension.type == "channel" and dimension.coords is not None:
            return v05.Omero(channels=[_omero_channel(c, spec.dtype) for c in dimension.coords[: sizes[axis]]])
    return None


def _omero_channel(channel: Channel, dtype: str) -> v05.OmeroChannel:
    bits = int("".join(filter(str.isdigit, dtype)))
    if dtype.startswith("float"):
        low, high = 0.0, 1.0
    elif dtype.startswith("uint"):
        low, high = 0.0, float(2**bits - 1)
    else:
        low, high = float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)
    window = v05.OmeroWindow(start=low, min=low, end=high, max=high)
    return v05.OmeroChannel(label=channel.name, color=channel.color, active=True, window=window)
