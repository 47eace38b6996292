"""The zarr.json files of a dataset: arrays and groups by the Zarr v3 core specification, metadata by OME-Zarr 0.5.

Sources: Zarr v3 core specification ("Array metadata", "Group metadata"), the sharding codec
(ZEP 2, "sharding_indexed"), https://ngff.openmicroscopy.org/0.5 ("axes", "multiscales", "omero", "plate", "well",
"bioformats2raw.layout").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from yaozarrs import v05

from omewd.dataset import omero
from omewd.model.plan.images import shape_on_disk, shapes_on_disk
from omewd.model.plan.levels import Level, levels_of
from omewd.model.spec.color import bayer_of
from omewd.model.spec.dimensions import Plate, Position
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.array_document import array_document


@dataclass(frozen=True, eq=False)
class Document:
    """A zarr.json. Documents share parts with each other, so they must not be changed."""

    json: dict[str, Any]

    @cached_property
    def text(self) -> bytes:
        return text_of(self.json)

    @property
    def is_array(self) -> bool:
        return bool(self.json["node_type"] == "array")


def text_of(document: dict[str, Any]) -> bytes:
    """The text of a zarr.json."""
    try:
        return to_json(document, indent=2, inf_nan_mode="constants")  # takes a tenth of json's time
    except ValueError:  # half of a surrogate pair, which users' metadata may have
        return json.dumps(document, indent=2).encode()


def read(path: Path) -> dict[str, Any]:
    """Read a zarr.json; returns {} if it can't be read."""
    return parsed(bytes_of(path))


def bytes_of(path: Path) -> bytes:
    """The bytes of a file; none if it can't be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def parsed(text: bytes) -> dict[str, Any]:
    """Parse the text of a zarr.json; returns {} if it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def attributes_of(document: dict[str, Any]) -> dict[str, Any]:
    """The attributes in a zarr.json; {} if it has none."""
    found = document.get("attributes")
    return found if isinstance(found, dict) else {}


def documents(spec: StreamSpec, frames: Sequence[int]) -> Iterator[tuple[str, Document]]:
    """All zarr.json files of a dataset by path, except omewd's own, once it has ``frames[source]`` of each source.

    What images have in common is made once, so a dataset may have many.
    """
    paths = spec.image_paths
    groups = ImageGroups(spec)
    for path, position, shape in zip(paths, spec.positions or (None,), shapes_on_disk(spec, frames), strict=True):
        yield f"{path}/zarr.json" if path else "zarr.json", groups.of(shape, position)
    yield from array_documents(spec, frames)
    if spec.plate is not None:
        yield from _plate_documents(spec, spec.plate, paths)
    elif spec.position_dimensions:
        yield "zarr.json", _group(v05.Bf2Raw.model_validate({"bioformats2raw.layout": 3}))
        yield "OME/zarr.json", _group(v05.Series(series=list(paths)))


def array_documents(spec: StreamSpec, frames: Sequence[int]) -> Iterator[tuple[str, Document]]:
    """The zarr.json files of a dataset's arrays, as in :func:`documents`. Arrays of one shape share a document."""
    levels = levels_of(spec)

    @cache
    def of_shape(shape: tuple[int, ...]) -> list[Document]:
        return [Document(_array_json(spec, level, level.shape(shape))) for level in levels]

    for path, shape in zip(spec.image_paths, shapes_on_disk(spec, frames), strict=True):
        for level, document in zip(levels, of_shape(shape), strict=True):
            yield f"{path}/{level.number}/zarr.json" if path else f"{level.number}/zarr.json", document


def array_json(spec: StreamSpec, frames: Sequence[int], image: int = 0, level: Level | None = None) -> dict[str, Any]:
    """The zarr.json of an image's array, with the shape for the first ``frames[source]`` frames of each source."""
    return _array_json(spec, level or levels_of(spec)[0], shape_on_disk(spec, frames, image, level))


def _array_json(spec: StreamSpec, level: Level, shape: tuple[int, ...]) -> dict[str, Any]:
    return array_document(
        shape=shape,
        key_shape=level.key_shape,
        chunk_shape=level.chunk_shape,
        dtype=spec.dtype,
        compression=spec.compression,
        sharded=spec.sharded,
        dimension_names=tuple(d.name for d in spec.disk_dimensions),
    )


class ImageGroups:
    """Makes the zarr.json of images' groups: one multiscale (axes, units, scales, translations) and the channels.

    OME-Zarr's model checks the first one of each shape; the others differ in their name and translation only.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self._spec, dims = spec, spec.disk_dimensions
        self._origin = [d.translation for d in dims]
        self._depth = next((axis for axis, d in enumerate(dims[:-2]) if d.type == "space"), None)
        # A "nearest" pixel keeps its place; with other methods, a pixel is at the centre of those that it combines.
        moves = spec.downsample != "nearest"
        self._levels = [
            (
                str(level.number),
                [d.scale * factor for d, factor in zip(dims, level.factors, strict=True)],
                [(factor - 1) / 2 * d.scale * moves for d, factor in zip(dims, level.factors, strict=True)],
            )
            for level in levels_of(spec)
        ]
        self._of_shape = cache(self._first_of)

    def of(self, shape: tuple[int, ...], position: Position | None = None) -> Document:
        """The group of an image. ``shape``: of its array at the full resolution. ``position``: the image's, if any."""
        first = self._of_shape(shape)
        ome = first["attributes"]["ome"]
        multiscale = {**ome["multiscales"][0], "name": self._name(position), "datasets": self._datasets(position)}
        return Document({**first, "attributes": {**first["attributes"], "ome": {**ome, "multiscales": [multiscale]}}})

    def _first_of(self, shape: tuple[int, ...]) -> dict[str, Any]:
        spec = self._spec
        multiscale = v05.Multiscale(
            name=self._name(None),
            axes=_axes(spec),
            datasets=[v05.Dataset.model_validate(dataset) for dataset in self._datasets(None)],
            type=spec.downsample if spec.levels > 1 else None,
        )
        group = _group(v05.Image(multiscales=[multiscale])).json
        channels = omero.declared(spec, shape)
        if channels:
            group["attributes"]["ome"]["omero"] = {"channels": channels}
        bayer = bayer_of(spec.color)
        if bayer is not None:
            group["attributes"]["omewd"] = {"bayer": bayer}
        return group

    def _name(self, position: Position | None) -> str:
        return position.name if position else self._spec.name

    def _origin_of(self, position: Position | None) -> list[float]:
        """The coordinates of an image's first pixel: the stage position is the image's corner."""
        origin = list(self._origin)
        if position is not None:
            origin[-2] += position.y_coord or 0.0
            origin[-1] += position.x_coord or 0.0
            if self._depth is not None:
                origin[self._depth] += position.z_coord or 0.0
        return origin

    def _datasets(self, position: Position | None) -> list[dict[str, Any]]:
        origin = self._origin_of(position)
        found = []
        for path, scale, shift in self._levels:
            transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
            translation = [o + s for o, s in zip(origin, shift, strict=True)]
            if any(translation):
                transformations.append({"type": "translation", "translation": translation})
            found.append({"path": path, "coordinateTransformations": transformations})
        return found


def _group(ome: Any) -> Document:
    attributes = {"ome": ome.model_dump(mode="json", exclude_none=True, by_alias=True)}
    return Document({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _plate_documents(spec: StreamSpec, plate: Plate, paths: Sequence[str]) -> Iterator[tuple[str, Document]]:
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
    yield "zarr.json", _group(v05.Plate(plate=definition))
    for row in dict.fromkeys(row for row, _ in fields):
        yield f"{row}/zarr.json", Document({"zarr_format": 3, "node_type": "group", "attributes": {}})
    for (row, column), names in fields.items():
        well = v05.WellDef(images=[v05.FieldOfView(path=name) for name in names])
        yield f"{row}/{column}/zarr.json", _group(v05.Well(well=well))


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
