"""The zarr.json files of a dataset: arrays and groups by the Zarr v3 core specification, metadata by OME-Zarr 0.5.

Sources: Zarr v3 core specification ("Array metadata", "Group metadata"), the sharding codec
(ZEP 2, "sharding_indexed"), https://ngff.openmicroscopy.org/0.5 ("axes", "multiscales", "omero", "plate", "well",
"bioformats2raw.layout").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yaozarrs import v05

from omewd.dataset import omero
from omewd.model.plan.images import image_paths, shape_on_disk
from omewd.model.plan.levels import Level, levels_of
from omewd.model.spec.color import bayer_of
from omewd.model.spec.dimensions import Plate, Position
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.array_document import array_document

Documents = dict[str, dict[str, Any]]


def documents(spec: StreamSpec, frames: Sequence[int]) -> Documents:
    """All zarr.json files of a dataset by path, except omewd's own, once it has ``frames[source]`` of each source."""
    found: Documents = {}
    paths = image_paths(spec)
    levels = levels_of(spec)
    for number, (path, position) in enumerate(zip(paths, spec.positions or (None,), strict=True)):
        root = f"{path}/" if path else ""
        found[f"{root}zarr.json"] = image_group_json(spec, frames, number, position)
        for level in levels:
            found[f"{root}{level.number}/zarr.json"] = array_json(spec, frames, number, level)
    if spec.plate is not None:
        found.update(_plate_documents(spec, spec.plate, paths))
    elif spec.position_dimensions:
        found["zarr.json"] = _group(v05.Bf2Raw.model_validate({"bioformats2raw.layout": 3}))
        found["OME/zarr.json"] = _group(v05.Series(series=list(paths)))
    return found


def array_json(spec: StreamSpec, frames: Sequence[int], image: int = 0, level: Level | None = None) -> dict[str, Any]:
    """The zarr.json of an image's array, with the shape for the first ``frames[source]`` frames of each source."""
    level = level or levels_of(spec)[0]
    return array_document(
        shape=shape_on_disk(spec, frames, image, level),
        key_shape=level.key_shape,
        chunk_shape=level.chunk_shape,
        dtype=spec.dtype,
        compression=spec.compression,
        sharded=spec.sharded,
        dimension_names=tuple(d.name for d in spec.disk_dimensions),
    )


def image_group_json(
    spec: StreamSpec, frames: Sequence[int], image: int = 0, position: Position | None = None
) -> dict[str, Any]:
    """The zarr.json of an image's group: one multiscale (axes, units, scales, translations) and the channels."""
    origin = _origin(spec, position)
    multiscale = v05.Multiscale(
        name=position.name if position else spec.name,
        axes=_axes(spec),
        datasets=[_dataset(spec, level, origin) for level in levels_of(spec)],
        type=spec.downsample if spec.levels > 1 else None,
    )
    group = _group(v05.Image(multiscales=[multiscale]))
    channels = omero.declared(spec, shape_on_disk(spec, frames, image))
    if channels:
        group["attributes"]["ome"]["omero"] = {"channels": channels}
    bayer = bayer_of(spec.color)
    if bayer is not None:
        group["attributes"]["omewd"] = {"bayer": bayer}
    return group


def _group(ome: Any) -> dict[str, Any]:
    attributes = {"ome": ome.model_dump(mode="json", exclude_none=True, by_alias=True)}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _plate_documents(spec: StreamSpec, plate: Plate, paths: Sequence[str]) -> Documents:
    """The plate and its wells that have images, with their fields (OME-Zarr 0.5, "plate" and "well")."""
    fields: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        row, column, field = path.split("/")
        fields.setdefault((row, column), []).append(field)
    wells = [
        v05.PlateWell(
            path=f"{row}/{column}", rowIndex=plate.row_names.index(row), columnIndex=plate.column_names.index(column)
        )
        for row, column in fields
    ]
    definition = v05.PlateDef(
        name=plate.name or spec.name,
        rows=[v05.Row(name=name) for name in plate.row_names],
        columns=[v05.Column(name=name) for name in plate.column_names],
        wells=wells,
        field_count=max(map(len, fields.values())),
    )
    found = {"zarr.json": _group(v05.Plate(plate=definition))}
    for (row, column), names in fields.items():
        found[f"{row}/zarr.json"] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        well = v05.WellDef(images=[v05.FieldOfView(path=name) for name in names])
        found[f"{row}/{column}/zarr.json"] = _group(v05.Well(well=well))
    return found


def _origin(spec: StreamSpec, position: Position | None) -> tuple[float, ...]:
    """The coordinates of an image's first pixel: the stage position is the image's corner."""
    stage: dict[int, float] = {}
    if position is not None:
        axes = len(spec.disk_order)
        stage = {axes - 1: position.x_coord or 0.0, axes - 2: position.y_coord or 0.0}
        depth = next((i for i, d in enumerate(spec.disk_dimensions[:-2]) if d.type == "space"), None)
        if depth is not None:
            stage[depth] = position.z_coord or 0.0
    return tuple(d.translation + stage.get(i, 0.0) for i, d in enumerate(spec.disk_dimensions))


def _dataset(spec: StreamSpec, level: Level, origin: tuple[float, ...]) -> v05.Dataset:
    scale = [d.scale * factor for d, factor in zip(spec.disk_dimensions, level.factors, strict=True)]
    # A "nearest" pixel keeps its place; with other methods, a pixel is at the centre of those that it combines.
    shift = [0.0 if spec.downsample == "nearest" else (factor - 1) / 2 for factor in level.factors]
    translation = [o + s * d.scale for o, s, d in zip(origin, shift, spec.disk_dimensions, strict=True)]
    transformations: list[Any] = [v05.ScaleTransformation(scale=scale)]
    if any(translation):
        transformations.append(v05.TranslationTransformation(translation=translation))
    return v05.Dataset(path=str(level.number), coordinateTransformations=transformations)


def _axes(spec: StreamSpec) -> list[Any]:
    """The axes. One that can't have its type where the storage order puts it has none."""
    axes: list[Any] = []
    for dim, kind in zip(spec.disk_dimensions, spec.disk_types, strict=True):
        match kind:
            case "time":
                axes.append(v05.TimeAxis(name=dim.name, unit=dim.unit))
            case "space":
                axes.append(v05.SpaceAxis(name=dim.name, unit=dim.unit))
            case "channel":
                axes.append(v05.ChannelAxis(name=dim.name, unit=dim.unit))
            case _:
                of_type = dim.type if dim.type == "other" else None
                axes.append(v05.CustomAxis(name=dim.name, type=of_type, unit=dim.unit))
    return axes
