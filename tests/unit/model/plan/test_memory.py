"""What memory a writer takes, as the daemon counts it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from omewd.errors import OmewdError
from omewd.model.plan.memory import (
    BUFFER_BYTES,
    BUFFERS_AT_ONCE,
    ENCODERS_AT_ONCE,
    IN_FLIGHT_BYTES,
    JOB_UNITS,
    JOBS_IN_FLIGHT,
    PIECES_AT_ONCE,
    index_cause,
    writer_need_bytes,
)
from omewd.model.plan.plan import Budget, Plan, choose_capacity
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec

MIB = 2**20


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return StreamSpec(name="s", dimensions=parse_dims(dims), **fields)


def need(dims: str, backend: str = "direct", **fields: Any) -> int:
    return writer_need_bytes(spec_of(dims, **fields), backend)


def test_the_direct_encoder_holds_pieces_however_deep_a_raw_chunk_is() -> None:
    most = BUFFERS_AT_ONCE * BUFFER_BYTES
    for depth in (1, 50, 5000):
        assert need(f"t:inf:{depth},y:4096,x:4096") == most
        assert need(f"t:inf:{depth}:2,y:4096:256:4,x:4096:256:4") == most
    assert need("t:inf:50,y:4096,x:4096", backend="tensorstore") == 3 * 50 * 32 * MIB + IN_FLIGHT_BYTES


def test_compressed_chunks_count_as_often_as_they_are_held() -> None:
    pieces = BUFFERS_AT_ONCE * BUFFER_BYTES
    assert need("t:inf:50,y:4096,x:4096", compression="zstd") == pieces + 3 * 50 * 32 * MIB
    tile = 50 * 1024 * 1024 * 2
    # Those that are being encoded, and those that wait to be written.
    held = ENCODERS_AT_ONCE * 3 * tile + PIECES_AT_ONCE * tile
    assert need("t:inf:50,y:4096:1024,x:4096:1024", compression="zstd") == pieces + held
    # A short acquisition has no more than its frames.
    assert need("t:2:50,y:64,x:64", compression="zstd") < 5 * MIB


def test_indexes_of_large_shards_count() -> None:
    for chunks in (2**22, 2**24):
        dims = f"t:inf:1:{chunks},y:64,x:64"
        assert need(dims) == 5 * 16 * chunks
        assert f"a shard of {chunks} chunks has an index of {chunks * 16 // MIB} MiB" in index_cause(
            spec_of(dims), "direct"
        )
    assert index_cause(spec_of("t:inf:1:1000,y:64,x:64"), "direct") == ""
    assert index_cause(spec_of(f"t:inf:1:{2**22},y:64,x:64"), "tensorstore") == ""


def test_smaller_resolutions_are_made_of_gathered_pixels() -> None:
    """Those of all jobs in flight, as the next one's are made while the last one's are being written."""
    assert need("t:inf:16,y:2048,x:2048", levels=3) == need("t:inf:16,y:2048,x:2048") + 1.5 * 128 * MIB
    assert need("t:inf:1,y:2048,x:2048", levels=3) == need("t:inf:1,y:2048,x:2048") + 1.5 * IN_FLIGHT_BYTES


def test_jobs_of_small_units_are_bounded_by_their_number() -> None:
    job = JOB_UNITS * 2 * 32 * 32 * 2
    assert need("t:inf:2,y:32,x:32", levels=2) == BUFFERS_AT_ONCE * job + 1.5 * JOBS_IN_FLIGHT * job


@pytest.mark.parametrize("compression", [None, "blosc-lz4"])
@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_a_refusal_names_the_depth_and_one_that_fits(backend: str, compression: str | None) -> None:
    def capacity(depth: int) -> int:
        spec = spec_of(f"t:inf:{depth},y:4096,x:4096", compression=compression)
        return choose_capacity(
            Plan.of(spec, BACKENDS[backend].encodes),
            32 * MIB + 4096,
            Budget(1024 * MIB, 2 * writer_need_bytes(spec, backend), cause=index_cause(spec, backend)),
            target_bytes=0,
            writers=2,
            writer_bytes_of=lambda plan: 2 * writer_need_bytes(spec, backend, plan),
        )

    with pytest.raises(OmewdError) as refusal:
        capacity(50)
    assert "a write unit is 50 deep along t, and the ring must hold the 50 frames" in refusal.value.message
    match = re.search(r"at most (\d+) along t", refusal.value.remedy)
    assert match is not None
    fits = int(match[1])
    assert fits >= 1
    assert capacity(fits) >= fits
    with pytest.raises(OmewdError):
        capacity(fits + 1)
