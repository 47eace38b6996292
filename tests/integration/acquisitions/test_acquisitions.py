"""Any acquisition: dimensions, orders, positions, sources, resolutions, gaps, held against a plain model."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import omewd
from omewd.dataset.verify import verify
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.spec import StreamSpec
from tests.support.acquisitions import Frames, check_acquisition, coordinates
from tests.support.daemons import DaemonProcess
from tests.support.frames import Array, make_frame

numbers = itertools.count()
EXAMPLES = int(os.environ.get("OMEWD_TEST_EXAMPLES", "100"))


def record(process: DaemonProcess, spec: StreamSpec, wanted: list[Frames], *, writer_dies: bool) -> list[Frames]:
    """Hand frames over, the sources' in turn, and end the stream; returns what became of each index."""
    _start(process, spec)
    names = spec.source_names if spec.source_axis is not None else (None,)
    arrivals: list[list[Array | None]] = [[] for _ in names]
    with contextlib.ExitStack() as stack:
        producers = [
            stack.enter_context(omewd.connect(spec.name, source=name, socket=process.socket)) for name in names
        ]
        for turn, of_all in enumerate(itertools.zip_longest(*wanted, fillvalue="none")):
            for producer, frame, became in zip(producers, of_all, arrivals, strict=True):
                if frame is None:
                    producer.skip()
                    became.append(None)
                elif not isinstance(frame, str):
                    became.append(None if producer.append(frame) is None else frame)
            if writer_dies and turn == 3:
                process.kill_a_writer()
        for producer in producers:
            producer.close()
    process.client.wait(spec.name, timeout=60)
    return list(arrivals)


def _start(process: DaemonProcess, spec: StreamSpec) -> None:
    """Open the stream; a ring that is too small is made as large as the refusal says."""
    try:
        process.client.start_stream(spec)
    except omewd.OmewdError as error:
        least = re.search(r"Pass at least `ring_slots=(\d+)`", error.remedy)
        assert least, error  # noqa: PT017
        process.client.start_stream(spec.model_copy(update={"ring_slots": int(least[1])}))


def _allowed(fields: dict[str, Any]) -> StreamSpec:
    """A spec, if OME-Zarr can say in which order it is stored."""
    try:
        return StreamSpec.parse(fields)
    except omewd.OmewdError as error:
        assert error.message.startswith("storage_order: OME-Zarr 0.5 puts time first"), error  # noqa: PT017
        return reject()


@st.composite
def acquisitions(draw: st.DrawFn) -> tuple[StreamSpec, list[Frames]]:
    names = draw(st.permutations(["t", draw(st.sampled_from("ca")), "z", "p"]))[: draw(st.integers(0, 4))]
    own = draw(st.sampled_from([None, None, *names]))
    first = next((n for n in names if n != own), None)
    dims = []
    for name in names:
        count = draw(st.integers(1, 4))
        cut = (
            {}
            if name in ("p", own)
            else {
                "chunk_size": draw(st.integers(1, 4)),
                "shard_size_chunks": draw(st.sampled_from([None, None, 1, 2, 3])),
            }
        )
        unbounded = name == first and name != "p" and draw(st.booleans())
        dims.append({"name": name, "count": None if unbounded else count, **cut})
    for name in "yx":
        count = draw(st.integers(2, 21))
        chunk = draw(st.integers(1, count))
        shard = draw(st.sampled_from([None, 1, 2])) if -(-count // chunk) > 1 else None
        dims.append({"name": name, "count": count, "chunk_size": chunk, "shard_size_chunks": shard})
    order = draw(st.sampled_from(["ome", "ome", "acquisition", "list"]))
    spec = _allowed(
        {
            "name": "any",  # each gets its own
            "dimensions": dims,
            "dtype": draw(st.sampled_from(sorted(ITEM_BYTES))),
            "backend": draw(st.sampled_from(["direct", "tensorstore"])),
            "compression": draw(st.sampled_from([None, None, "blosc-lz4", "zstd"])),
            "storage_order": draw(st.permutations([n for n in names if n != "p"])) if order == "list" else order,
            "source_dimension": own,
            "levels": draw(st.sampled_from([1, 1, 2])),
            "downsample": draw(st.sampled_from(["mean", "nearest", "min", "max"])),
            "durability": draw(st.sampled_from(["none", "none", "fsync"])),
            "backpressure": draw(st.sampled_from(["block", "drop"])),
            "ring_slots": draw(st.sampled_from([None, 1, 5])),
        }
    )
    arrivals: list[Frames] = []
    for source in range(spec.sources):
        total = len(coordinates(spec, source, 40))
        count = draw(st.sampled_from([total, draw(st.integers(0, total))]))
        gaps = draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=4))
        arrivals.append(
            [None if i in gaps else make_frame(i + source * 1000, spec.frame_shape, spec.dtype) for i in range(count)]
        )
    return spec, arrivals


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(acquisitions(), st.integers(0, 5))
def test_any_acquisition_is_what_a_plain_model_says(
    omewd_daemon: DaemonProcess, acquisition: tuple[StreamSpec, list[Frames]], chance: int
) -> None:
    spec, wanted = acquisition
    name = f"any{next(numbers)}"  # one that fails must not be in the way of the next
    spec = spec.model_copy(update={"name": name, "output": f"{name}.ome.zarr"})
    dataset = omewd_daemon.data / spec.output
    try:
        arrivals = record(omewd_daemon, spec, wanted, writer_dies=chance == 0)
        check_acquisition(dataset, spec, arrivals)
        assert verify(dataset).problems == []
        for source, frames in enumerate(arrivals):
            with omewd.view(name, source=source, socket=omewd_daemon.socket) as viewed:
                for index, frame in enumerate(frames):
                    expected = np.zeros(spec.frame_shape, spec.dtype) if frame is None else frame
                    assert np.array_equal(viewed.frame(index).array, expected), (source, index)
    finally:
        shutil.rmtree(dataset, ignore_errors=True)
