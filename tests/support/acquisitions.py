"""A plain model of what a dataset has to hold, made without omewd's own planning, and the comparison with it."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import omewd
from omewd.model.spec.spec import StreamSpec
from tests.support.frames import Array

Frames = Sequence[Array | None]  # of one source, in the order of arrival; None for a gap


def coordinates(spec: StreamSpec, source: int, count: int) -> list[dict[str, int]]:
    """Where the first frames of a source are: by name of the dimension, the last one runs fastest."""
    ranges: list[Any] = []
    for dim in spec.dimensions[:-2]:
        if dim.name == spec.source_dimension:
            ranges.append([spec.source_elements[source]])
        else:
            ranges.append(range(count if dim.count is None else dim.count))
    names = [d.name for d in spec.dimensions[:-2]]
    return [dict(zip(names, at, strict=True)) for at in itertools.islice(itertools.product(*ranges), count)]


def axes_of(spec: StreamSpec) -> list[str]:
    """The outer axes of an array, by the storage order that was asked for."""
    dims = [d for d in spec.dimensions[:-2] if d.type != "position"]
    if spec.storage_order == "ome":
        dims.sort(key=lambda d: ["time", "channel", "other", "space"].index(d.type))
    elif spec.storage_order != "acquisition":
        dims.sort(key=lambda d: list(spec.storage_order).index(d.name))
    return [d.name for d in dims]


def folders_of(spec: StreamSpec) -> list[str]:
    """The folder of each image."""
    positions = next((d for d in spec.dimensions if d.type == "position"), None)
    if positions is None:
        return [""]
    if spec.plate is None:
        if spec.position_folders == "names":
            grid = [(p.grid_row, p.grid_column) for p in spec.positions]
            tiles = ["" if None in at else "_{}_{}".format(*at) for at in grid]
            return [f"{position.name}{tile}/" for position, tile in zip(spec.positions, tiles, strict=True)]
        return [f"{number}/" for number in range(positions.count or 0)]
    seen: dict[str, int] = {}
    folders = []
    for position in spec.positions:
        well = f"{position.plate_row}/{position.plate_column}"
        field = position.name if spec.position_folders == "names" else seen.get(well, 0)
        folders.append(f"{well}/{field}/")
        seen[well] = seen.get(well, 0) + 1
    return folders


def expected_image(spec: StreamSpec, image: int, arrivals: Sequence[Frames]) -> tuple[Array, Array] | None:
    """An image at full resolution, and which of its frames are there (outer axes); None if it has got nothing."""
    axes = axes_of(spec)
    position = next((d.name for d in spec.dimensions if d.type == "position"), None)
    placed = [
        (tuple(at[name] for name in axes), frame)
        for source, frames in enumerate(arrivals)
        for at, frame in zip(coordinates(spec, source, len(frames)), frames, strict=True)
        if position is None or at[position] == image
    ]
    if not placed:
        return None
    outer = [max(at[axis] for at, _ in placed) + 1 for axis in range(len(axes))]
    for axis, name in enumerate(axes):
        if name == spec.source_dimension:
            outer[axis] = next(d.count for d in spec.dimensions if d.name == name) or 0
    pixels = np.zeros((*outer, *spec.frame_shape), spec.dtype)
    there = np.zeros(outer, bool)
    for at, frame in placed:
        if frame is not None:
            pixels[at], there[at] = frame, True
    return pixels, there


def _extreme(pixels: Array, there: Array, axes: Sequence[int], method: str) -> tuple[Array, Array]:
    """Each pixel is the smallest or the largest of those that it is made of, and that are there."""
    shape = [-(-n // 2) if axis in axes else n for axis, n in enumerate(pixels.shape)]
    found = np.zeros(shape, pixels.dtype)
    some = np.zeros(shape, bool)
    for place in np.ndindex(*pixels.shape):
        if there[place[:-2]]:
            to = tuple(n // 2 if axis in axes else n for axis, n in enumerate(place))
            pick = min if method == "min" else max
            found[to] = pick(found[to], pixels[place]) if some[to] else pixels[place]
            some[to] = True
    return found, some[..., 0, 0]


def halved(pixels: Array, there: Array, axes: Sequence[int], method: str) -> tuple[Array, Array]:
    """The next resolution, pixel by pixel: the mean or the extreme of what there is, or the first one."""
    if method == "nearest":
        even = tuple(slice(None, None, 2 if axis in axes else 1) for axis in range(pixels.ndim))
        return pixels[even], there[even[:-2]]
    if method in ("min", "max"):
        return _extreme(pixels, there, axes, method)
    is_float = pixels.dtype.kind == "f"
    shape = [-(-n // 2) if axis in axes else n for axis, n in enumerate(pixels.shape)]
    total = np.zeros(shape, np.float64 if is_float else object)
    count = np.zeros(shape, np.int64)
    full = np.broadcast_to(there.reshape(*there.shape, 1, 1), pixels.shape)
    for offsets in itertools.product(*[(0, 1) if axis in axes else (0,) for axis in range(pixels.ndim)]):
        source = tuple(slice(o, None, 2 if axis in axes else 1) for axis, o in enumerate(offsets))
        part, known = pixels[source], full[source]
        inside = tuple(slice(0, n) for n in part.shape)
        values = part.astype(np.float64) if is_float else part.astype(object)
        total[inside] += np.where(known, values, 0)
        count[inside] += known
    some = np.maximum(count, 1)
    mean = total / some if is_float else (2 * total + some) // (2 * some)
    kept = count[..., 0, 0] > 0
    return np.where(count > 0, mean, 0).astype(pixels.dtype), kept


def read_array(path: Path, reader: str) -> Array:
    if reader == "zarr":
        import zarr

        array: Any = zarr.open_array(str(path), mode="r")
        return np.asarray(array[...])
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return np.asarray(tensorstore.open(spec, open=True).result().read().result())


def check_ledger(dataset: Path, spec: StreamSpec, arrivals: Sequence[Frames]) -> None:
    """Each line is an object to any JSON parser, and says where a frame is; as do rows, of which each index has one."""
    with (dataset / "omewd" / "ledger.jsonl").open() as lines:
        stored = {(row.get("source", 0), row["frame"]): row for row in map(json.loads, lines)}
    position = next((d.name for d in spec.dimensions if d.type == "position"), None)
    rows = {(row.source, row.frame): row for row in omewd.open_ledger(dataset)}
    assert list(rows) == [(source, n) for source, frames in enumerate(arrivals) for n in range(len(frames))]
    for source, frames in enumerate(arrivals):
        for n, (at, frame) in enumerate(zip(coordinates(spec, source, len(frames)), frames, strict=True)):
            image = 0 if position is None else at[position]
            index = {name: at[name] for name in axes_of(spec)}
            row = rows[source, n]
            assert (row.image, list(row.index.items())) == (image, list(index.items()))
            assert (row.gap == "") == (frame is not None)
            if frame is not None:
                line = stored[source, n]
                assert (line["image"], line["index"], line["wall_ns"]) == (image, index, row.wall_ns)


def check_acquisition(dataset: Path, spec: StreamSpec, arrivals: Sequence[Frames]) -> None:
    """Every pixel of every image at every resolution; the metadata by two libraries; the totals."""
    for image, folder in enumerate(folders_of(spec)):
        attributes = json.loads((dataset / folder / "zarr.json").read_text())["attributes"]["ome"]
        [multiscale] = attributes["multiscales"]
        levels = multiscale["datasets"]
        assert [level["path"] for level in levels] == [str(n) for n in range(spec.levels)]
        axes = axes_of(spec)
        assert [axis["name"] for axis in multiscale["axes"]] == [*axes, *(d.name for d in spec.dimensions[-2:])]
        scales = [level["coordinateTransformations"][0]["scale"] for level in levels]
        found = expected_image(spec, image, arrivals)
        for number, scale in enumerate(scales):
            arrays = [read_array(dataset / folder / str(number), reader) for reader in ("zarr", "tensorstore")]
            if found is None:
                assert all(0 in array.shape for array in arrays)
                continue
            if number:
                factors = [b / a for a, b in zip(scales[number - 1], scale, strict=True)]
                halves = [axis for axis, factor in enumerate(factors) if factor == 2]
                assert all(factor in (1, 2) for factor in factors)
                assert {len(axes), len(axes) + 1} <= set(halves) or 1 in found[0].shape[-2:]
                found = halved(*found, halves, spec.downsample)
            for array in arrays:
                assert array.shape == found[0].shape, (image, number)
                assert array.dtype == spec.dtype
                if spec.dtype.startswith("float") and number:
                    assert np.allclose(array, found[0], rtol=1e-3 if spec.dtype == "float16" else 1e-6), (image, number)
                else:
                    assert np.array_equal(array, found[0]), (image, number)
    check_metadata(dataset)
    check_ledger(dataset, spec, arrivals)
    totals = json.loads((dataset / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
    for source, frames in enumerate(arrivals):
        of_source = totals.get("sources", [totals])[source]
        assert of_source["received"] == len(frames)
        assert of_source["gaps"] == sum(frame is None for frame in frames)
    assert totals["written"] == sum(frame is not None for frames in arrivals for frame in frames)
    assert not (dataset / "omewd" / "staging").exists()


def check_metadata(dataset: Path) -> None:
    """That yaozarrs and ome-zarr-models take it, as the kind of group that it is."""
    import zarr
    from ome_zarr_models import v05
    from yaozarrs import validate_zarr_store

    validate_zarr_store(str(dataset))
    ome = json.loads((dataset / "zarr.json").read_text())["attributes"]["ome"]
    kind: Any = v05.HCS if "plate" in ome else v05.BioFormats2Raw if "bioformats2raw.layout" in ome else v05.Image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather that nobody wrote bioformats2raw's layout
        kind.from_zarr(zarr.open_group(str(dataset), mode="r"))
