"""How a writer divides its work, and the memory that this takes. The daemon budgets by the same numbers. Pure."""

from __future__ import annotations

import math

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec

# A job takes several units, up to this many bytes, because each job costs a sync of the ledger and a message each way.
# Measured with frames of 8 MiB and two writers, as a share of the disk's speed, for jobs of 16, 32 and 64 MiB: 0.95,
# 1.0 and 1.0; with tiles 0.74, 0.87 and 0.88.
JOB_BYTES = 32 << 20
# The most units of a job.
JOB_UNITS = 1024
# Jobs that a writer may have at once, and their bytes together; a larger job is alone. While one of 32 MiB becomes
# durable, the next one is being written. Smaller ones, of several sources, become durable together.
JOBS_IN_FLIGHT = 4
IN_FLIGHT_BYTES = 2 * JOB_BYTES
# Measured with 2 GiB in files of 128 MiB on a virtual disk, 4 writes at once: 1.85 GB/s with 8 MiB, 1.5 with 16 or 32.
PIECE_BYTES = 8 << 20
# A writer's concurrent writes. Two of 8 MiB keep a disk busy; the others go out while a piece is being encoded.
PIECES_AT_ONCE = 4
# Threads that gather and compress in a writer; with more cores, more writers use them. What they make lies in buffers
# until it is written.
ENCODERS_AT_ONCE = 4
BUFFERS_AT_ONCE = ENCODERS_AT_ONCE + PIECES_AT_ONCE
# A piece, and what a codec adds to noise.
BUFFER_BYTES = PIECE_BYTES + (PIECE_BYTES >> 5)
# Shards that all jobs of a writer may have open. Each takes two descriptors, and a process may have as few as 1,024.
OPEN_SHARDS = 192
# A writer's concurrent syncs, of files and folders. The filesystem merges those that wait for its journal.
SYNCS_AT_ONCE = 16
# Several shards are sealed together while their indexes stay within this; a larger one is sealed alone.
INDEXES_AT_ONCE_BYTES = 16 << 20
INDEX_ENTRY_BYTES = 16
# Bytes held for each byte of an index at the peak of sealing (measured with 4 and 33 million chunks: 3.1), with room
# for the frame indexes.
_INDEX_COPIES = 5


def unit_bytes(spec: StreamSpec, plan: Plan) -> int:
    """The size of a whole write unit at the full resolution."""
    return math.prod(plan.extents) * spec.frame_bytes


def writer_need_bytes(spec: StreamSpec, backend: str, plan: Plan | None = None) -> int:
    """The most memory that a writer holds beside the ring for its jobs; ``plan``: other units than the stream's."""
    record = BACKENDS[backend]
    plan = plan or Plan.of(spec, record.encodes)
    frames = plan.frames_total
    all_bytes = math.inf if frames is None else frames * spec.frame_bytes
    unit = unit_bytes(spec, plan)
    job_bytes = int(min(JOB_BYTES, JOB_UNITS * unit, all_bytes))
    held_bytes = int(min(IN_FLIGHT_BYTES, JOBS_IN_FLIGHT * job_bytes, all_bytes))
    if record.encodes == "chunk":
        need = max(
            _chunk_bytes(spec, plan, max(job_bytes, unit), max(held_bytes, unit), record.copies), _sealing_bytes(spec)
        )
    else:
        need = record.copies * unit + held_bytes
    # A contiguous copy of each job's pixels, and all lower resolutions, which together are a third of the full one.
    return need + (int(1.5 * max(unit, held_bytes)) if spec.levels > 1 else 0)


def _chunk_bytes(spec: StreamSpec, plan: Plan, job_bytes: int, held_bytes: int, copies: int) -> int:
    """What threads hold that encode the chunks of jobs, ``held_bytes`` together: pieces, and compressed chunks."""
    chunk_bytes = math.prod(plan.extents) * math.prod(spec.chunk_shape[-2:]) * ITEM_BYTES[spec.dtype]
    pieces = BUFFERS_AT_ONCE * min(BUFFER_BYTES, job_bytes)
    if spec.compression is None:
        return pieces
    chunks = -(-held_bytes // chunk_bytes)
    at_once = min(ENCODERS_AT_ONCE, chunks)
    # A large chunk is gathered, compressed by the library into memory of its own (zstd), and copied into a buffer of
    # its size. The buffer lasts until it is written, while the next chunk is encoded.
    being_written = min(BUFFERS_AT_ONCE, chunks) - at_once if chunk_bytes > PIECE_BYTES else 0
    return pieces + at_once * copies * max(chunk_bytes, min(PIECE_BYTES, job_bytes)) + being_written * chunk_bytes


def _sealing_bytes(spec: StreamSpec) -> int:
    """The memory for sealing: a few copies of a shard's index, or of the indexes of several small shards."""
    if not spec.sharded:
        return 0
    index = chunks_per_shard(spec) * INDEX_ENTRY_BYTES
    return _INDEX_COPIES * max(index, min(SYNCS_AT_ONCE * index, INDEXES_AT_ONCE_BYTES))


def index_cause(spec: StreamSpec, backend: str) -> str:
    """Explains a writer's need for memory if the shard indexes make it so large; else ""."""
    if BACKENDS[backend].encodes != "chunk" or _sealing_bytes(spec) < writer_need_bytes(spec, backend):
        return ""
    chunks = chunks_per_shard(spec)
    size = chunks * INDEX_ENTRY_BYTES / 2**20
    return f"a shard of {chunks} chunks has an index of {size:.0f} MiB, and a writer holds {_INDEX_COPIES} copies of it"


def chunks_per_shard(spec: StreamSpec) -> int:
    return math.prod(d.shard_size_chunks or 1 for d in spec.dimensions)
