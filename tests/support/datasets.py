"""Datasets read back by two libraries, and held against the frames that they have to hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.ledger import ledger
from omewd.dataset.metadata import ImageGroups
from omewd.model.plan.images import shape_on_disk
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from tests.support.frames import Array, frame_index, make_frame


def image_group(spec: StreamSpec, frames: Sequence[int]) -> dict[str, Any]:
    """The zarr.json of the first image's group, once there are ``frames[source]`` frames of each source."""
    return ImageGroups(spec).of(shape_on_disk(spec, frames)).json


def read_zarr(dataset: Path) -> Array:
    """The image array, whole, read by zarr-python."""
    import zarr

    array = zarr.open_array(str(dataset / "0"), mode="r")
    return np.asarray(array[...])


def read_tensorstore(dataset: Path) -> Array:
    """The image array, whole, read by tensorstore."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(dataset / "0")}}
    return np.asarray(tensorstore.open(spec, open=True).result().read().result())


def ledger_rows(dataset: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a dataset's ledger about frames, in file order; None for a line that can't be read."""
    with (dataset / ledger.FOLDER / ledger.FILE).open("rb") as lines:
        for line in lines:
            row = ledger.parse(line)
            if not line.isspace() and (row is None or "frame" in row):
                yield row


def check_dataset(
    dataset: Path, spec: StreamSpec, frames: int, gaps: set[int] | None = None, *, validate: bool = True
) -> None:
    """Every frame index in [0, frames) is at its place, bit for bit, or is a gap and reads as zero."""
    from yaozarrs import validate_zarr_store

    gaps = gaps or set()
    plan = Plan.of(spec)
    shape = plan.outer_shape(frames)
    expected_shape = (*(shape[i] for i in plan.order), *spec.frame_shape)
    for array in (read_zarr(dataset), read_tensorstore(dataset)):
        assert array.shape == expected_shape
        assert array.dtype == spec.dtype
        for index in range(frames):
            stored = array[plan.place(index)]
            if index in gaps:
                assert not stored.any(), f"gap {index} is not empty"
            else:
                expected = make_frame(index, spec.frame_shape, spec.dtype)
                assert stored.tobytes() == expected.tobytes(), f"frame {index} is wrong (holds {frame_index(stored)})"
    if validate:
        validate_zarr_store(str(dataset))
    totals = json.loads((dataset / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
    assert totals["received"] == frames
    assert totals["gaps"] == len(gaps)
    assert totals["written"] == frames - len(gaps)
    assert not (dataset / "omewd" / "staging").exists()
    strays = [p for p in dataset.rglob("*") if p.is_file() and p.name.startswith((".", "unit"))]
    assert not strays
