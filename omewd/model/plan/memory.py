"""How a writer cuts its work, and what memory that takes: the writers do it, the daemon counts it. Pure."""

from __future__ import annotations

import math

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec

# Units go to a writer several at once, up to this: each job costs a sync of the ledger, and a message each way
# (frames of 8 MiB on two writers, of the disk's speed: 16 MiB 0.95, 32 MiB 1.0, 64 MiB 1.0; tiles 0.74, 0.87, 0.88).
JOB_BYTES = 32 << 20
# 2 GiB into files of 128 MiB on a virtual disk, 4 writes at once: 1.85 GB/s with 8 MiB, 1.5 with 16 or 32.
PIECE_BYTES = 8 << 20
# Writes on their way at once in a writer; a disk is busy with two of 8 MiB, and while one is encoded others go out.
PIECES_AT_ONCE = 4
# Shards are sealed several at once, up to this much of their indexes, or one.
INDEXES_AT_ONCE_BYTES = 16 << 20
INDEX_ENTRY_BYTES = 16
# For each byte of an index, at the peak of sealing (measured with 4 and 33 million chunks: 3.1), and the frame indexes.
_INDEX_COPIES = 5


def unit_bytes(spec: StreamSpec, plan: Plan) -> int:
    """Bytes of a whole write unit, at the full resolution."""
    return math.prod(plan.extents) * spec.frame_bytes


def writer_need_bytes(spec: StreamSpec, backend: str, plan: Plan | None = None) -> int:
    """What a writer may hold beside the ring while it is at a job of a stream; ``plan``: of units cut otherwise."""
    record = BACKENDS[backend]
    plan = plan or Plan.of(spec, record.encodes)
    frames = plan.frames_total
    job_bytes = JOB_BYTES if frames is None else min(JOB_BYTES, frames * spec.frame_bytes)
    unit = unit_bytes(spec, plan)
    if record.encodes == "chunk":
        need = max(_chunk_bytes(spec, plan, max(job_bytes, unit), record.copies), _sealing_bytes(spec))
    else:
        need = record.copies * unit + job_bytes
    # The pixels of a job in one place, and all smaller resolutions of them, which together are a third of the full one.
    return need + (int(1.5 * max(unit, job_bytes)) if spec.levels > 1 else 0)


def _chunk_bytes(spec: StreamSpec, plan: Plan, job_bytes: int, copies: int) -> int:
    """What the threads that encode chunk by chunk hold: pieces, or where a chunk is compressed, chunks."""
    chunk_bytes = math.prod(plan.extents) * math.prod(spec.chunk_shape[-2:]) * ITEM_BYTES[spec.dtype]
    pieces = PIECES_AT_ONCE * 2 * min(PIECE_BYTES, job_bytes)
    if spec.compression is None:
        return pieces
    at_once = min(PIECES_AT_ONCE, -(-job_bytes // chunk_bytes))
    # Gathered, then compressed into the most that this may take, then copied into bytes.
    return pieces + at_once * copies * max(chunk_bytes, min(PIECE_BYTES, job_bytes))


def _sealing_bytes(spec: StreamSpec) -> int:
    """What sealing takes: the index of a shard, or of some small ones, a few times."""
    if not spec.sharded:
        return 0
    index = chunks_per_shard(spec) * INDEX_ENTRY_BYTES
    return _INDEX_COPIES * max(index, min(PIECES_AT_ONCE * index, INDEXES_AT_ONCE_BYTES))


def index_cause(spec: StreamSpec, backend: str) -> str:
    """Why a writer needs so much memory, where it is for the indexes of shards."""
    if BACKENDS[backend].encodes != "chunk" or _sealing_bytes(spec) < writer_need_bytes(spec, backend):
        return ""
    chunks = chunks_per_shard(spec)
    size = chunks * INDEX_ENTRY_BYTES / 2**20
    return f"a shard of {chunks} chunks has an index of {size:.0f} MiB, which a writer holds {_INDEX_COPIES} times"


def chunks_per_shard(spec: StreamSpec) -> int:
    return math.prod(d.shard_size_chunks or 1 for d in spec.dimensions)
