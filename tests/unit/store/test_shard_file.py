"""A shard in progress: room that nobody else gets, and no chunk lost wherever its writer is cut off."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.store import filesystem
from omewd.store.aligned import ALIGNMENT, aligned, packed, write_at
from omewd.store.buffers import Buffers
from omewd.store.format.shard_index import ABSENT, ENTRY_BYTES, index_bytes, read_entries
from omewd.store.format.shard_table import in_staging, name_of
from omewd.store.sinks import shard_file
from omewd.store.sinks.shard_file import ShardFile
from tests.support.frames import make_spec

CHUNKS = 4
ROOM_BYTES = 1 << 20
INDEX_BYTES = CHUNKS * ENTRY_BYTES + 4
PLACE = ShardPlace(3, 1, 2)
# Names say of which resolution and source they are, too.
LAYOUT = ShardLayout(make_spec("cam", "t:8:1:4,y:4:2:1,x:6:2:1"))
NAME = "shard-0-0-3-1-2"

Chunks = dict[int, bytes]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    (tmp_path / "c").mkdir()
    return tmp_path


def shard(root: Path, chunks: int = CHUNKS, room_bytes: int = ROOM_BYTES, *, durable: bool = True) -> ShardFile:
    return ShardFile(root / "staging" / NAME, root / "c" / "key", chunks, room_bytes, durable=durable)


def some_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def put(file: ShardFile, number: int, data: bytes) -> int:
    """Write a chunk where there is room; returns where that was."""
    offset = place = file.grant(len(data))
    for block, _ in packed([data], Buffers()):
        write_at(file.descriptor, block, place)
        place += len(block)
    file.note(number, np.array([[offset, len(data)]], np.uint64))
    return offset


def add(root: Path, chunks: Chunks) -> None:
    file = shard(root)
    file.open()
    for number, data in chunks.items():
        put(file, number, data)
    file.close()


def seal(root: Path, wanted: Any = None) -> None:
    file = shard(root)
    path = file.finish(wanted)
    if path is not None:
        path.rename(file.final)
    file.forget()


def sealed(root: Path) -> Chunks:
    """The chunks of the shard in its place."""
    descriptor = os.open(root / "c" / "key", os.O_RDONLY)
    try:
        entries = read_entries(descriptor, CHUNKS)
        assert entries is not None
        present = {number: entry for number, entry in enumerate(entries.tolist()) if entry[0] != ABSENT}
        return {number: os.pread(descriptor, length, offset) for number, (offset, length) in present.items()}
    finally:
        os.close(descriptor)


def staged(root: Path) -> set[str]:
    return {path.name for path in (root / "staging").iterdir()}


OLD: Chunks = {0: some_bytes(5000, 1), 2: some_bytes(8192, 2)}
NEW: Chunks = {1: some_bytes(9000, 3), 3: some_bytes(10, 4)}


# -- room ------------------------------------------------------------------------------------------


def assert_apart(grants: list[tuple[int, int]]) -> None:
    end = 0
    for start, size in sorted(grants):
        assert start % ALIGNMENT == 0
        assert start >= end
        end = start + size


def test_grants_to_threads_never_overlap(root: Path) -> None:
    files = [shard(root) for _ in range(2)]
    grants: list[tuple[int, int]] = []
    start = threading.Barrier(8)

    def ask(number: int) -> None:
        start.wait()
        for size in range(1, 10_000, 500):
            grants.append((files[number % 2].grant(size), size))

    for file in files:
        file.open()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()
    assert len(grants) == 8 * 20
    assert_apart(grants)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from tests.unit.store.test_shard_file import put, shard

root, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
file = shard(root, chunks=3 * count)
file.open()
for number in range(first, first + count):
    size = 1 + number * 97 % 9000
    print(put(file, number, bytes([number % 256]) * size), size)
file.close()
"""


def test_processes_that_share_a_shard_do_not_get_in_each_others_way(root: Path) -> None:
    count = 40
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(first), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, count, 2 * count)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    grants = [tuple(map(int, line.split())) for writer in writers for line in writer.communicate()[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert_apart([(start, size) for start, size in grants])
    path = shard(root, chunks=3 * count).finish(None)
    assert path is not None
    content = path.read_bytes()
    for number, (start, size) in enumerate(grants):
        assert content[start : start + size] == bytes([number % 256]) * size


def test_a_writer_that_died_leaves_a_gap_at_most(root: Path) -> None:
    add(root, OLD)
    dead = shard(root)
    dead.open()
    lost = dead.grant(7000)
    dead.close()
    file = shard(root)
    file.open()
    assert put(file, 1, NEW[1]) >= lost + 7000
    file.close()
    seal(root)
    assert sealed(root) == {**OLD, 1: NEW[1]}


def size_of(file: ShardFile) -> int:
    return os.fstat(file.descriptor).st_size


def test_room_is_made_ahead_but_not_past_the_end_of_the_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_file, "_AHEAD_BYTES", 100 * ALIGNMENT)
    file = shard(root)
    file.open()
    for start, end, size in [
        (0, 1, 101),
        (100, 101, 101),
        (101, 102, 202),
        (202, 203, ROOM_BYTES // ALIGNMENT),
        (203, ROOM_BYTES // ALIGNMENT + 1, ROOM_BYTES // ALIGNMENT + 1),
    ]:
        file.reserve(start * ALIGNMENT, end * ALIGNMENT)
        assert size_of(file) == size * ALIGNMENT
    file.close()


def test_what_is_granted_has_room(root: Path) -> None:
    file = shard(root)
    file.open()
    for size in (1, 5000, ROOM_BYTES // 8, ROOM_BYTES, 1):
        assert file.grant(size) + aligned(size) <= size_of(file)
    file.close()


def taken(file: ShardFile) -> int:
    """Bytes of its blocks; a filesystem may have some more to know where they are."""
    return os.fstat(file.descriptor).st_blocks * 512


FEW = 4 * ALIGNMENT


def test_what_is_far_apart_stays_sparse(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks between may never come."""
    monkeypatch.setattr(shard_file, "_AHEAD_BYTES", 16 * ALIGNMENT)
    file = shard(root)
    file.open()
    file.reserve(200 * ALIGNMENT, 201 * ALIGNMENT)
    assert size_of(file) == 217 * ALIGNMENT
    assert 17 * ALIGNMENT <= taken(file) <= 17 * ALIGNMENT + FEW
    file.reserve(233 * ALIGNMENT, 234 * ALIGNMENT)  # near: no gap is left
    assert size_of(file) - 200 * ALIGNMENT <= taken(file) <= size_of(file) - 200 * ALIGNMENT + FEW
    file.close()


class Disk:
    """Instead of the system calls: ``free`` bytes of it, and ``error`` when a file is extended past ``limit``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: int = 1 << 40, limit: int = 1 << 40, error: int = 0):
        self.limit, self.error, self._free = limit, error, free
        self.asked: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "fstatvfs", self._statvfs)
        monkeypatch.setattr(shard_file, "extend", self._extend)

    def _statvfs(self, _: int) -> Any:
        return SimpleNamespace(f_bavail=self._free // 512, f_bfree=1 << 40, f_frsize=512, f_bsize=ALIGNMENT)

    def _extend(self, descriptor: int, start: int, end: int) -> None:
        self.asked.append((start, end))
        if end > self.limit:
            raise OSError(self.error, os.strerror(self.error))
        os.ftruncate(descriptor, end)


@pytest.mark.parametrize(("free", "ahead"), [(8 * ROOM_BYTES, 0), (8 * ROOM_BYTES + 512, ROOM_BYTES)])
def test_room_is_made_ahead_where_it_is_little_of_what_is_free(
    root: Path, monkeypatch: pytest.MonkeyPatch, free: int, ahead: int
) -> None:
    disk = Disk(monkeypatch, free=free)
    file = shard(root)
    file.open()
    file.reserve(0, 3 * ALIGNMENT)
    assert disk.asked == [(0, ahead or 3 * ALIGNMENT)]
    file.close()


def test_the_last_room_on_a_disk_is_granted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, free=0)
    file = shard(root)
    file.open()
    assert (file.grant(5000), file.grant(1)) == (0, 2 * ALIGNMENT)
    assert disk.asked == [(0, 2 * ALIGNMENT), (2 * ALIGNMENT, 3 * ALIGNMENT)]
    file.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """ext4 of 64 MiB on a loop device."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no loop device here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.root("mounts a disk of its own")
def test_a_shard_leaves_a_small_disk_to_others(small_disk: Path) -> None:
    (small_disk / "staging").mkdir()
    file = shard(small_disk, room_bytes=1 << 30)
    file.open()
    try:
        assert (file.grant(1 << 20), file.grant(1 << 20)) == (0, 1 << 20)
        file.reserve(2 << 20, 3 << 20)
        assert taken(file) <= (3 << 20) + FEW
        with (small_disk / "others").open("wb") as other:
            os.posix_fallocate(other.fileno(), 0, 40 << 20)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                file.grant(40 << 20)
        (small_disk / "others").unlink()
        assert file.grant(1) == 2 << 20
    finally:
        file.close()


# -- room that is given back -----------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_a_disk_refuses_is_not_granted(root: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    disk = Disk(monkeypatch, free=0, limit=5 * ALIGNMENT, error=error)
    file = shard(root)
    file.open()
    assert file.grant(2 * ALIGNMENT) == 0
    for _ in range(3):
        with pytest.raises(OSError, match=os.strerror(error)):
            file.grant(4 * ALIGNMENT)
        with pytest.raises(OSError, match=os.strerror(error)):
            file.reserve(5 * ALIGNMENT, 6 * ALIGNMENT)
    assert disk.asked[1:] == 3 * [(2 * ALIGNMENT, 6 * ALIGNMENT)] * 2
    disk.limit = ROOM_BYTES
    assert file.grant(4 * ALIGNMENT) == 2 * ALIGNMENT
    file.close()


def test_a_job_that_fails_again_and_again_takes_no_more_room(root: Path) -> None:
    add(root, {0: OLD[0]})
    file = shard(root)
    file.open()
    for _ in range(3):
        assert [file.grant(size) for size in (5000, 1, 9000)] == [2 * ALIGNMENT, 4 * ALIGNMENT, 5 * ALIGNMENT]
        file.give_back()
    file.close()
    add(root, {2: OLD[2]})
    seal(root)
    assert sealed(root) == OLD
    assert (root / "c" / "key").stat().st_size == 4 * ALIGNMENT + INDEX_BYTES


def test_room_between_others_is_given_back_to_the_disk(root: Path) -> None:
    mine, other = shard(root), shard(root)
    mine.open()
    other.open()
    assert mine.grant(50 * ALIGNMENT) == 0
    assert put(other, 0, OLD[0]) == 50 * ALIGNMENT
    assert mine.grant(50 * ALIGNMENT) == 52 * ALIGNMENT
    assert put(other, 2, OLD[2]) == 102 * ALIGNMENT
    before, size = taken(mine), size_of(mine)
    mine.give_back()
    assert taken(mine) <= before - 100 * ALIGNMENT + FEW
    assert size_of(mine) == size
    assert other.grant(1) == 104 * ALIGNMENT
    for file in (mine, other):
        file.close()
    seal(root)
    assert sealed(root) == OLD


def test_room_is_given_back_once(root: Path) -> None:
    """By then it may be another's."""
    mine, other = shard(root), shard(root)
    mine.open()
    other.open()
    mine.grant(5000)
    mine.give_back()
    assert put(other, 0, OLD[0]) == 0
    mine.give_back()
    assert put(other, 2, OLD[2]) == 2 * ALIGNMENT
    for file in (mine, other):
        file.close()
    seal(root)
    assert sealed(root) == OLD


# -- from the first chunk to the shard in its place ------------------------------------------------


def test_what_was_noted_is_in_the_sealed_shard(root: Path) -> None:
    add(root, OLD)
    assert name_of(LAYOUT, PLACE) == NAME
    assert in_staging(root / "staging") == {(0, 0): [PLACE]}
    seal(root)
    assert sealed(root) == OLD
    assert staged(root) == set()
    assert in_staging(root / "staging") == {}


def test_chunks_are_noted_in_runs(root: Path) -> None:
    file = shard(root)
    file.open()
    offset = file.grant(3 * ALIGNMENT)
    for block, _ in packed([b"1" * ALIGNMENT, b"2" * ALIGNMENT, b"3" * ALIGNMENT], Buffers()):
        write_at(file.descriptor, block, offset)
    starts = offset + np.arange(3) * ALIGNMENT
    file.note(1, np.stack([starts, np.full(3, ALIGNMENT)], axis=1).astype(np.uint64))
    file.close()
    seal(root)
    assert sealed(root) == {n: str(n).encode() * ALIGNMENT for n in (1, 2, 3)}


def test_only_what_is_wanted_counts(root: Path) -> None:
    add(root, {**OLD, **NEW})
    seal(root, np.array([True, False, True, False]))
    assert sealed(root) == OLD


@pytest.mark.parametrize("wanted", [None, np.array([False, True, False, False])])
def test_a_shard_without_chunks_leaves_nothing(root: Path, wanted: Any) -> None:
    add(root, {} if wanted is None else OLD)
    seal(root, wanted)
    assert staged(root) == set()
    assert not (root / "c" / "key").exists()


def test_nothing_is_to_be_finished_where_nothing_was_begun(root: Path) -> None:
    assert shard(root).finish(None) is None
    assert staged(root) == set()


def test_what_was_allocated_ahead_is_given_back(root: Path) -> None:
    add(root, {1: b"x" * 5000})
    assert (root / "staging" / NAME).stat().st_blocks * 512 >= ROOM_BYTES // 8
    seal(root)
    status = (root / "c" / "key").stat()
    assert status.st_size == 5000 + INDEX_BYTES
    assert status.st_blocks * 512 <= 2 * ALIGNMENT


def test_holes_in_a_sealed_shard_are_punched(root: Path) -> None:
    """Chunks whose writers died, and others that are not wanted; neighbours that begin within a block keep it."""
    file = shard(root)
    file.open()
    places = np.array([[0, 5000], [5000, 3192], [45 * ALIGNMENT + 7, 9000], [150 * ALIGNMENT, 10]], np.uint64)
    content = some_bytes(151 * ALIGNMENT)
    for block, _ in packed([content], Buffers()):
        write_at(file.descriptor, block, 0)
    file.note(0, places)
    file.close()
    seal(root, np.array([True, False, True, True]))
    expected = [content[offset : offset + size] for offset, size in places.tolist()]
    assert sealed(root) == {0: expected[0], 2: expected[2], 3: expected[3]}
    status = (root / "c" / "key").stat()
    assert status.st_size == 150 * ALIGNMENT + 10 + INDEX_BYTES
    assert status.st_blocks * 512 <= (2 + 3 + 1) * ALIGNMENT + FEW


def test_a_small_hole_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_file, "punch", lambda *hole: pytest.fail(f"{hole}"))
    file = shard(root)
    file.open()
    put(file, 0, OLD[0])
    file.grant(14 * ALIGNMENT)
    put(file, 2, OLD[2])
    file.close()
    seal(root)
    assert sealed(root) == OLD


def test_a_sealed_shard_is_synced_before_it_is_handed_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def sync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)

    add(root, OLD)
    monkeypatch.setattr(os, "fdatasync", sync)
    path = shard(root).finish(None)
    assert path is not None
    assert sizes == [path.stat().st_size]
    assert shard(root, durable=False).finish(None) == path
    assert len(sizes) == 1


def test_finishing_it_again_gives_the_same(root: Path) -> None:
    add(root, OLD)
    path = shard(root).finish(None)
    assert path is not None
    first = path.read_bytes()
    assert shard(root).finish(None) == path
    assert path.read_bytes() == first


def test_a_filesystem_without_direct_writes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def refuse_direct(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse_direct)
    file = shard(root)
    file.open()
    assert not file.direct
    put(file, 0, OLD[0])
    file.close()
    seal(root)
    assert sealed(root) == {0: OLD[0]}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_can_not_be_opened_is_let_go(root: Path) -> None:
    (root / "staging" / NAME).mkdir()
    before = open_files()
    with pytest.raises(IsADirectoryError):
        shard(root).open()
    assert open_files() == before


# -- a sealed shard that gets more chunks ----------------------------------------------------------


@pytest.fixture
def once_sealed(root: Path) -> Path:
    add(root, OLD)
    seal(root)
    return root


def test_a_sealed_shard_is_taken_back_and_sealed_again(once_sealed: Path) -> None:
    root = once_sealed
    add(root, NEW)
    assert not (root / "c" / "key").exists()
    seal(root)
    assert sealed(root) == {**OLD, **NEW}
    add(root, {0: b"newer"})
    seal(root)
    assert sealed(root) == {**OLD, **NEW, 0: b"newer"}
    assert staged(root) == set()


def test_a_shard_taken_back_for_nothing_is_sealed_as_it_was(once_sealed: Path) -> None:
    before = (once_sealed / "c" / "key").read_bytes()
    add(once_sealed, {})
    seal(once_sealed)
    assert (once_sealed / "c" / "key").read_bytes() == before


def cut_short(shard: bytes) -> bytes:
    return shard[:-1]


def cut_to_nothing(_: bytes) -> bytes:
    return b""


def flip_a_bit_of_the_index(shard: bytes) -> bytes:
    place = len(shard) - INDEX_BYTES + 3
    return shard[:place] + bytes([shard[place] ^ 1]) + shard[place + 1 :]


def flip_a_bit_of_the_checksum(shard: bytes) -> bytes:
    return shard[:-1] + bytes([shard[-1] ^ 1])


def name_a_chunk_past_the_end(shard: bytes) -> bytes:
    entries = np.array([[0, 10], [len(shard) - 9, 10], [ABSENT, ABSENT], [ABSENT, ABSENT]], np.uint64)
    return shard[:-INDEX_BYTES] + index_bytes(entries)


def name_a_chunk_that_wraps(shard: bytes) -> bytes:
    entries = np.array([[0, 10], [5, 2**64 - 2], [ABSENT, ABSENT], [ABSENT, ABSENT]], np.uint64)
    return shard[:-INDEX_BYTES] + index_bytes(entries)


@pytest.mark.parametrize(
    "tear",
    [
        cut_short,
        cut_to_nothing,
        flip_a_bit_of_the_index,
        flip_a_bit_of_the_checksum,
        name_a_chunk_past_the_end,
        name_a_chunk_that_wraps,
    ],
)
def test_a_torn_shard_is_replaced(once_sealed: Path, tear: Callable[[bytes], bytes]) -> None:
    root, key = once_sealed, once_sealed / "c" / "key"
    key.write_bytes(tear(key.read_bytes()))
    torn = key.read_bytes()
    add(root, {})
    seal(root)
    assert key.read_bytes() == torn
    add(root, NEW)
    assert key.read_bytes() == torn
    seal(root)
    assert sealed(root) == NEW
    assert staged(root) == set()


# -- cut off ---------------------------------------------------------------------------------------


class Cut(BaseException):
    """The writer is killed here."""


def cut(*_: Any, **__: Any) -> Any:
    raise Cut


def cut_off_at(root: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut)
        with pytest.raises(Cut):
            shard(root).open()


def table_of(root: Path) -> Path:
    return root / "staging" / f"{NAME}.table"


def empty_table(root: Path, _: pytest.MonkeyPatch) -> None:
    table_of(root).touch()


def table_without_header(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_at(root, monkeypatch, ShardFile, "_write_header")
    assert not table_of(root).read_bytes()[:8].strip(b"\0")


def table_without_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_at(root, monkeypatch, ShardFile, "_open_data")


def data_without_rows(root: Path, _: pytest.MonkeyPatch) -> None:
    file = shard(root)
    file.open()
    offset = file.grant(5000)
    for block, _used in packed([b"never on record" * 300], Buffers()):
        write_at(file.descriptor, block, offset)
    file.close()


def not_taken_back_yet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_at(root, monkeypatch, shard_file, "give_second_name")
    assert (root / "c" / "key").exists()


def in_both_places(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_at(root, monkeypatch, Path, "unlink")
    assert (root / "c" / "key").samefile(root / "staging" / NAME)


def just_taken_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_at(root, monkeypatch, shard_file, "point")
    assert not (root / "c" / "key").exists()


def finished_and_not_in_place(root: Path, _: pytest.MonkeyPatch) -> None:
    add(root, {})
    assert shard(root).finish(None) is not None


def in_place_with_its_table(root: Path, _: pytest.MonkeyPatch) -> None:
    add(root, {})
    path = shard(root).finish(None)
    assert path is not None
    path.rename(root / "c" / "key")


def in_place_with_its_name_aside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_with_both_names(root, monkeypatch)
    table_of(root).unlink()


def in_place_with_both_names(root: Path, _: pytest.MonkeyPatch) -> None:
    add(root, {})
    path = shard(root).finish(None)
    assert path is not None
    os.link(path, root / "c" / "key")


@pytest.mark.parametrize("call", ["ftruncate", "pwrite of the index", "rename"])
def test_what_was_not_wanted_never_comes_back(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The index, or another chunk, may lie where it was."""
    add(root, {**OLD, **NEW})
    wanted = np.array([True, False, True, False])
    if call == "rename":
        assert shard(root).finish(wanted) is not None
    else:
        with monkeypatch.context() as patch:
            patch.setattr(*((os, "ftruncate") if call == "ftruncate" else (shard_file, "index_bytes")), cut)
            with pytest.raises(Cut):
                shard(root).finish(wanted)
    add(root, {1: b"newer"})
    seal(root)
    assert sealed(root) == {**OLD, 1: b"newer"}


def test_what_was_not_wanted_is_off_the_record_before_the_file_is_cut(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_truncate, names = os.ftruncate, {f"{NAME}.table": "table synced", NAME: "shard synced"}

    def truncate(descriptor: int, size: int) -> None:
        events.append("cut")
        real_truncate(descriptor, size)

    add(root, {**OLD, **NEW})
    monkeypatch.setattr(os, "ftruncate", truncate)
    monkeypatch.setattr(os, "fdatasync", lambda fd: events.append(names[Path(f"/proc/self/fd/{fd}").readlink().name]))
    shard(root).finish(np.array([True, False, True, False]))
    assert events == ["table synced", "cut", "shard synced"]


def test_the_table_of_a_shard_goes_before_its_chunks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, OLD)
    removed: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_: removed.append(path.name))
    shard(root).forget()
    assert removed == [f"{NAME}.table", NAME]


CutOff = Callable[[Path, pytest.MonkeyPatch], None]

BEGUN: list[CutOff] = [empty_table, table_without_header, table_without_data, data_without_rows]
SEALED: list[CutOff] = [
    empty_table,
    table_without_header,
    data_without_rows,
    not_taken_back_yet,
    in_both_places,
    just_taken_back,
    finished_and_not_in_place,
    in_place_with_its_table,
    in_place_with_both_names,
]


@pytest.fixture
def _both_ends(root: Path) -> Iterator[None]:
    """Afterwards the shard must be sealed, and nothing be left over."""
    yield
    assert staged(root) == set()


@pytest.mark.usefixtures("_both_ends")
@pytest.mark.parametrize("cut_off", BEGUN)
def test_a_new_shard_that_was_cut_off_is_gone_on_with(
    root: Path, monkeypatch: pytest.MonkeyPatch, cut_off: CutOff
) -> None:
    cut_off(root, monkeypatch)
    assert in_staging(root / "staging") == {(0, 0): [PLACE]}
    add(root, NEW)
    seal(root)
    assert sealed(root) == NEW


@pytest.mark.usefixtures("_both_ends")
@pytest.mark.parametrize("cut_off", BEGUN)
def test_a_new_shard_that_was_cut_off_can_be_given_up(
    root: Path, monkeypatch: pytest.MonkeyPatch, cut_off: CutOff
) -> None:
    cut_off(root, monkeypatch)
    seal(root)
    assert not (root / "c" / "key").exists()


@pytest.mark.usefixtures("_both_ends")
@pytest.mark.parametrize("again", [*SEALED, in_place_with_its_name_aside])
@pytest.mark.parametrize("cut_off", SEALED)
def test_a_sealed_shard_keeps_its_chunks_when_more_come(
    once_sealed: Path, monkeypatch: pytest.MonkeyPatch, cut_off: CutOff, again: CutOff
) -> None:
    root = once_sealed
    cut_off(root, monkeypatch)
    add(root, {1: NEW[1]})
    seal(root)
    assert sealed(root) == {**OLD, 1: NEW[1]}
    again(root, monkeypatch)
    add(root, {3: NEW[3]})
    seal(root)
    assert sealed(root) == {**OLD, **NEW}


@pytest.mark.usefixtures("_both_ends")
@pytest.mark.parametrize("cut_off", SEALED)
def test_a_sealed_shard_keeps_its_chunks_when_none_come(
    once_sealed: Path, monkeypatch: pytest.MonkeyPatch, cut_off: CutOff
) -> None:
    cut_off(once_sealed, monkeypatch)
    seal(once_sealed)
    assert sealed(once_sealed) == OLD


def test_a_shard_is_taken_back_once_its_table_is_on_disk(once_sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if whoever made the table was cut off before it was: without it nobody knows where the chunks are."""
    events: list[str] = []
    real_link, real_sync = os.link, os.fdatasync

    def sync(descriptor: int) -> None:
        valid = os.pread(descriptor, 8, 0).strip(b"\0")
        events.append(f"{Path(f'/proc/self/fd/{descriptor}').readlink().name} synced" if valid else "no header yet")
        real_sync(descriptor)

    def link(path: Path, name: Path) -> None:
        events.append("taken back")
        real_link(path, name)

    cut_off_at(once_sealed, monkeypatch, os, "fdatasync")
    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "link", link)
    add(once_sealed, {})
    assert events[-2:] == [f"{NAME}.table synced", "taken back"]


@pytest.mark.parametrize("cut_off", [data_without_rows, finished_and_not_in_place])
def test_a_shard_in_progress_keeps_what_is_on_record(
    root: Path, monkeypatch: pytest.MonkeyPatch, cut_off: CutOff
) -> None:
    add(root, OLD)
    cut_off(root, monkeypatch)
    add(root, NEW)
    seal(root)
    assert sealed(root) == {**OLD, **NEW}


def test_a_disk_that_takes_a_part_of_the_table_or_of_the_index_is_asked_for_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, bytes(data[:10]), offset))
    chunks = {number: some_bytes(5000, number) for number in range(CHUNKS)}
    add(root, chunks)
    seal(root)
    monkeypatch.undo()
    assert sealed(root) == chunks


def test_room_ahead_that_a_quota_refuses_is_done_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def extend(descriptor: int, start: int, end: int) -> None:
        if end > 2 * ALIGNMENT:
            raise OSError(errno.EDQUOT, "quota")
        real(descriptor, start, end)

    real = filesystem.extend
    monkeypatch.setattr(shard_file, "extend", extend)
    chunks = {0: some_bytes(5000)}
    add(root, chunks)
    seal(root)
    assert sealed(root) == chunks
