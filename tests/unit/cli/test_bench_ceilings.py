"""What disk, memory and codecs could do beside a benchmark, and how much of that a column reached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from omewd.bench.ceilings.core import cut
from omewd.bench.ceilings.cores import Cores
from omewd.bench.plan import (
    OME_WRITERS,
    Column,
    Rates,
    Timed,
)
from omewd.bench.report.ceilings import memcpy_ns, nearest, references
from omewd.bench.report.results import shown_metrics, values
from omewd.errors import OmewdError
from tests.unit.cli.outcomes import OURS, outcome, sample

LZ4 = replace(OURS, compression="blosc-lz4")
GB = 20 * 64 * 64 * 2 / 1e9  # in each iteration


def test_each_column_says_which_ceiling_is_the_nearest_and_how_near() -> None:
    raw = Timed(OURS, [sample(1.0)])
    compressed = Timed(LZ4, [sample(1.0, stored_bytes=163840 // 4)])
    codecs = {
        "blosc-lz4": [Rates(1.1 * GB, 1.5 * GB, 0.5), Rates(0.7 * GB, 1.0 * GB, 0.5), Rates(2 * GB, 2.5 * GB, 0.5)]
    }
    result = outcome(raw, compressed, memcpy=[Rates(5 * GB, 8 * GB, 0.5)], codecs=codecs, cores=2)
    assert str(nearest(raw, result)) == "0.50 of the disk"  # which takes 2 GB a second here
    assert str(nearest(compressed, result)) == "0.67 of the codec on 2 cores"  # all cores' median
    figures = values(compressed, result)
    assert figures["disk_fraction"] == pytest.approx(0.5 / 4)  # of the bytes that are stored
    assert figures["codec_fraction"] == pytest.approx(1 / 1.5)
    assert figures["memcpy_fraction"] == pytest.approx(1 / 5)
    assert values(raw, result)["codec_fraction"] is None
    assert str(nearest(raw, outcome(raw, disk_s=(), memcpy=[Rates(5 * GB, 8 * GB, 0.5)]))) == "0.20 of memcpy"
    assert nearest(raw, outcome(raw, disk_s=())) is None


def test_ceilings_are_those_of_all_cameras_and_all_levels() -> None:
    many = Timed(replace(LZ4, cameras=4, levels=2), [sample(1.0)])
    result = outcome(
        many, memcpy=[Rates(5 * GB, 8 * GB, 0.5)], codecs={"blosc-lz4": [Rates(GB, 16 * GB, 0.5)]}, cores=16
    )
    figures = values(many, result)
    assert figures["memcpy_fraction"] == pytest.approx(4 / 8)  # four cores could copy 20, the memory takes 8
    assert figures["codec_fraction"] == pytest.approx(4 / 12)  # a third more is compressed


def test_ceilings_are_conditions_and_a_failure_says_why() -> None:
    timed = Timed(LZ4, [sample()])
    frame_gb = 64 * 64 * 2 / 1e9
    rates = [Rates(frame_gb / 2e-3, frame_gb / 1e-3, 0.5)]
    result = outcome(timed, memcpy=rates, codecs={"blosc-lz4": [Rates(1.5, 2.5, 0.5)]}, cores=2)
    assert memcpy_ns(result) == pytest.approx(2e6)
    lines = dict(references(result))
    assert "2.000 ms a frame" in lines["memcpy"]
    assert lines["blosc-lz4 alone"] == "1.50 GB/s on one core, 2.50 on 2, 0.500 CPU s/GB, with these chunks"
    assert dict(references(outcome(timed, cores_error="it died")))["Cores"] == "it died"


def test_connect_and_close_are_rows_of_their_own_and_the_sum_is_what_a_program_waits() -> None:
    ours = Timed(OURS, [sample(2.0, close_s=0.5), sample(1.0), sample(3.0)])
    peer = Timed(Column(OME_WRITERS, "a", None, 0), [sample(2.0, connect_s=0.0)])
    result = outcome(ours, peer)
    assert values(ours, result)["connect_s"] == 0.01
    assert values(ours, result)["close_s"] == 0.2
    assert values(ours, result)["total_s"] == pytest.approx(2.0 + 0.1 + 0.01)
    assert values(peer, result)["connect_s"] is None
    assert {"connect_s", "close_s", "total_s"} <= {metric.key for metric in shown_metrics(result)}


@pytest.mark.parametrize(
    ("chunk", "count", "shape"),
    [
        ((1, 4, 6), 5 * 2 * 2, (1, 4, 6)),  # tiles at the edges that are not whole are left out
        ((2, 9, 13), 2, (2, 9, 13)),
        ((2, 4, 9, 13), 1, (8, 9, 13)),  # deeper than there are frames: they come round again
    ],
)
def test_chunks_are_whole_and_contiguous(chunk: tuple[int, ...], count: int, shape: tuple[int, ...]) -> None:
    frames = np.arange(5 * 9 * 13, dtype=np.uint16).reshape(5, 9, 13)
    chunks = cut(frames, chunk)
    assert chunks.shape == (count, *shape)
    assert chunks.flags.c_contiguous
    assert np.array_equal(chunks[0], frames[np.arange(shape[0]) % 5, : shape[1], : shape[2]])
    if count == 20:
        assert np.array_equal(chunks[-1][0], frames[4, 4:8, 6:12])


def test_cores_copy_and_compress_on_their_own() -> None:
    cores = Cores()
    try:
        cores.prepare(shape=[64, 64], dtype="uint16", data="camera", frames=8, chunk=[1, 32, 32])
        copied, compressed = cores.copy(), cores.compress("zstd")
        assert copied.one > 0
        assert copied.all > 0
        assert 0 < compressed.one < copied.one
        assert 0 < copied.cpu_s_per_gb < compressed.cpu_s_per_gb
        with pytest.raises(OmewdError, match="levels from 0 to 9"):
            cores.compress("blosc-lz4:77")
        cores.prepare(shape=[64, 64], dtype="uint8", data="random", frames=8, chunk=[1, 64, 64])
        assert cores.copy().one > 0  # in other processes, which have no answers left to give
    finally:
        cores.close()
