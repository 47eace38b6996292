"""Datasets with some of an acquisition's sources, and their copy as one dataset, compared with all frames."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import omewd
from omewd.copier.parts.acquisition import common_of, whole_of
from omewd.dataset import dataset
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.appending import append_to
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.dataset.made_by import MadeBy
from omewd.model.contrast import Window
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import UnitStore
from tests.conformance.support import unit_block
from tests.support.acquisitions import check_acquisition
from tests.support.frames import Array, make_frame
from tests.support.units import singly

CHANNELS = ("DAPI", "GFP", "RFP")


def part_spec(*own: str, dims: str = "t:inf:1:4,c:3,y:16:8:2,x:16", name: str = "cams", **fields: Any) -> StreamSpec:
    """A spec of cameras, of which those named ``own`` are here."""
    dimensions = [
        d.model_copy(update={"coords": tuple(omewd.Channel(name=n) for n in CHANNELS)}) if d.name == "c" else d
        for d in omewd.parse_dims(dims)
    ]
    fields = {"output": f"{name}.ome.zarr", "source_dimension": "c", "backend": "direct", "levels": 2, **fields}
    return StreamSpec(name=name, dimensions=tuple(dimensions), own_sources=own or None, **fields)


def frames_of(spec: StreamSpec, element: int, count: int) -> list[Array | None]:
    """The frames of an element of the source dimension."""
    return [make_frame(index + 1000 * element, spec.frame_shape, spec.dtype) for index in range(count)]


def recorded(
    root: Path,
    spec: StreamSpec,
    epoch: int,
    lengths: Sequence[int],
    windows: Sequence[Window] = (),
    *,
    failed: bool = False,
) -> Path:
    """A finished dataset with the first frames of each of its sources."""
    backend = BACKENDS[spec.backend]
    folder = root / spec.output
    root.mkdir(parents=True, exist_ok=True)
    dataset.create(spec, folder, root, epoch=epoch, made_by=MadeBy(backend.name, "1.2"))
    with closing(Tools(2, root)) as tools:
        publisher = Publisher(folder, folder / STAGING, durable=False, pool=tools.syncs)
        with closing(UnitStore(spec, backend, publisher, tools, "test")) as units:
            for source, (element, count) in enumerate(zip(spec.source_elements, lengths, strict=True)):
                frames = frames_of(spec, element, count)
                plan = Plan.of(spec, backend.encodes, source=source)
                for unit in range(plan.units_with(count)):
                    block = unit_block(spec, plan, unit, partial(_frame, frames, spec))
                    committed(units.put(source, singly([(unit, block)])), tools.syncs)
                if count:
                    numbers = np.arange(count)
                    text = FrameLines.of(spec, source).text(numbers, numbers + 5, numbers, [b'{"n":1}'] * count)
                    append_to(folder, ledger.with_received(text, count))
    totals = [Totals(received=count, written=count) for count in lengths]
    dataset.finalize(spec, folder, totals=totals, ended_by="test", failed=failed, windows=windows)
    return folder


def _frame(frames: Sequence[Array | None], spec: StreamSpec, index: int) -> Array:
    """A frame; zeros after the last one, which a unit may have."""
    frame = frames[index] if index < len(frames) else None
    return np.zeros(spec.frame_shape, spec.dtype) if frame is None else frame


def check_whole(folder: Path, spec: StreamSpec, lengths: Sequence[int]) -> None:
    """A copy, as a folder, has all frames of all sources, byte for byte. ``lengths``: of all elements."""
    whole = whole_of(common_of(spec))
    check_acquisition(folder, whole, [frames_of(whole, element, count) for element, count in enumerate(lengths)])
