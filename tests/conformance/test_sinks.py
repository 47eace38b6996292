"""What every sink must do, wherever it puts cells: the same suite for all of them.

A new sink is in it by a line in ``SINKS``. What is special to one is in ``test_publish``, and in the unit tests of
shards.
"""

from __future__ import annotations

import errno
import gc
import math
import mmap
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from omewd.dataset import dataset
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, Written
from omewd.model.spec.backend import BACKENDS, Backend, Cell
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.encoders.base import Cells, Encoded, Encoder, UnitArray, by_unit
from omewd.store.encoders.direct import DirectEncoder
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks import shard_batch
from omewd.store.sinks.allowance import Allowance
from omewd.store.sinks.base import Batch, Fence, Sink, Steps, commit, committed
from omewd.store.sinks.keys import KeyBatch, KeySink
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_batch import ShardBatch
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.sinks.shards import ShardSink
from omewd.store.tools import Tools
from omewd.store.units import sink_of
from tests.conformance.support import ToyEncoder, unit_block, usual_frames
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.frames import Array, make_frame, make_spec

FRAMES = 12
PLAIN = f"t:{FRAMES},y:16:8,x:24:8"
SHARDED = f"t:{FRAMES}:1:3,y:16:8:2,x:24:8:2"


class ToyBatch(Batch):
    """Keeps all bytes until the fence."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._files: dict[str, bytes] = {}
        self._label = ""

    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        self._label = self._label or f"unit-0-0-{unit}"
        for (row, column), pieces in next(by_unit(unit, cells))[1]:
            self._files[f"{layout.folder(unit)}/{row}/{column}"] = b"".join(map(bytes, pieces))

    def commit(self) -> Steps:
        yield from ()
        self._publisher.publish(self._files.items(), label=self._label)
        return sum(map(len, self._files.values()))

    def give_up(self) -> None:
        self._files.clear()


class ToySink(Sink):
    """The least that a sink has to be."""

    def __init__(self, publisher: Publisher, tools: Tools) -> None:  # noqa: ARG002
        self._publisher = publisher
        super().__init__()

    def _begin(self) -> Batch:
        return ToyBatch(self._publisher)

    def seal(self, layout: ShardLayout, below: int, since: int = 0) -> None:
        """All is in place."""

    def seal_all(self, layouts: Iterable[ShardLayout], written: Sequence[Written] | None = None) -> None:
        """All is in place."""


class ForgetfulEncoder(ToyEncoder):
    """Bytes that are gone as soon as the next cell is made."""

    def encode(self, block: Array) -> Iterator[Encoded]:
        for place, pieces in super().encode(block):
            buffer = bytearray(b"".join(map(bytes, pieces)))
            yield Encoded(place, (memoryview(buffer),))
            buffer[:] = bytes(len(buffer))


@dataclass(frozen=True)
class Case:
    sink: Callable[[Publisher, Tools], Sink]
    cell: Cell
    dims: str


SINKS = {
    "keys": Case(KeySink, "key", PLAIN),
    "keys that are shards": Case(KeySink, "key", SHARDED),
    "shards": Case(ShardSink, "chunk", SHARDED),
    "toy": Case(ToySink, "key", PLAIN),
}
ENCODERS: dict[str, type[Encoder]] = {"lasting": DirectEncoder, "not lasting": ForgetfulEncoder}


class Writer:
    """A dataset, and a sink of it; units hold the frames of their numbers."""

    def __init__(self, folder: Path, case: Case, encoder: type[Encoder], tools: Tools) -> None:
        self.spec: StreamSpec = make_spec("cam", case.dims)
        self.tools = tools
        self.folder, self.layout = folder / "cam.ome.zarr", ShardLayout(self.spec)
        self.plan = Plan.of(self.spec, case.cell)
        dataset.create(self.spec, self.folder, folder, epoch=1)
        self.sink = case.sink(Publisher(self.folder, self.folder / STAGING, durable=True, pool=tools.syncs), tools)
        # An encoder of whole shards is a library's: what this suite asks of a sink is the same for any bytes.
        array = UnitArray.of(self.spec, cell=case.cell)
        if array.sharded:
            from omewd.store.encoders.tensorstore import TensorStoreEncoder as encoder  # noqa: N813
        self.encoder = encoder(array, threads=2, scratch=folder / "scratch")

    @property
    def units(self) -> range:
        return range(self.plan.units_total or 0)

    def put(self, *units: int) -> None:
        for unit in units:
            block = unit_block(self.spec, self.plan, unit, usual_frames(self.spec))
            self.sink.put(self.layout, unit, self.encoder.encode(block))

    def put_and_commit(self, *units: int) -> int:
        """As a job does it: put all, or give up what was put; returns the size on disk."""
        try:
            self.put(*units)
        except OSError:
            self.sink.give_up()
            raise
        return committed(self.sink.fence(), self.tools.syncs)

    def check(self, units: Iterable[int]) -> None:
        """Once it is finalized, other libraries read the frames of these units, and zeros in place of all others."""
        self.sink.seal_all([self.layout])
        dataset.finalize(self.spec, self.folder, totals=[Totals(FRAMES, FRAMES)], ended_by="test", failed=False)
        stored = set(units)
        for array in (read_zarr(self.folder), read_tensorstore(self.folder)):
            for frame in range(FRAMES):
                expected = make_frame(frame, self.spec.frame_shape, self.spec.dtype)
                there = self.plan.unit_of(frame) in stored
                assert np.array_equal(array[frame], expected if there else 0 * expected), frame

    def keys(self) -> list[Path]:
        """What is in its place."""
        return [path for path in (self.folder / "0").glob("c/**/*") if path.is_file()]


@pytest.fixture
def tools() -> Iterator[Tools]:
    with closing(Tools(2)) as tools:
        yield tools


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> type[Encoder]:
    return ENCODERS[request.param]


@pytest.fixture(params=SINKS)
def writer(tmp_path: Path, request: pytest.FixtureRequest, encoder: type[Encoder], tools: Tools) -> Iterator[Writer]:
    writer = Writer(tmp_path, SINKS[request.param], encoder, tools)
    yield writer
    writer.sink.close()
    writer.encoder.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def fail_for_unit_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk fail for what has the first frames; only a sync sees it."""
    real_sync = os.fdatasync

    def sync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if re.search(r"/(unit|shard)-0-0-0(?![0-9])", path) and not path.endswith(".table"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)


def test_what_was_put_can_be_read_once_it_is_durable(writer: Writer) -> None:
    first, *others = writer.units
    writer.put(first)
    fence = writer.sink.fence()
    assert not writer.keys()
    assert committed(fence, writer.tools.syncs) >= writer.spec.frame_bytes
    for unit in others:
        writer.put_and_commit(unit)
    writer.check(writer.units)


def test_many_units_before_one_fence(writer: Writer) -> None:
    assert writer.put_and_commit(*writer.units) >= FRAMES * writer.spec.frame_bytes
    writer.check(writer.units)


def test_units_with_more_shards_than_may_be_open_wait_for_each_other(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may have few descriptors. The 24 shards of a unit are open together, but not those of two units."""
    tools.open_shards = Allowance(20)
    monkeypatch.setattr(shard_batch, "_SHARDS_AT_ONCE", 100)
    writer = Writer(tmp_path, Case(ShardSink, "chunk", f"t:{FRAMES}:1:3,y:16:4:1,x:24:4:1"), DirectEncoder, tools)
    before, most = descriptors(), []
    real_open = ShardFile.open

    def opened(file: ShardFile) -> None:
        real_open(file)
        most.append(descriptors())

    monkeypatch.setattr(ShardFile, "open", opened)
    with ThreadPoolExecutor(1) as back:
        commits = []
        for unit in writer.units:
            writer.put(unit)
            commits.append(back.submit(commit, [writer.sink.fence()], tools.syncs))
        assert [len(each.result()) for each in commits] == [1] * FRAMES
    assert max(most) <= before + 2 * 24 + 10
    writer.check(writer.units)
    writer.sink.close()
    writer.encoder.close()


def test_a_fence_is_about_the_units_since_the_one_before(writer: Writer) -> None:
    """They are committed together, or one by one, and in any order."""
    fences = []
    for unit in writer.units:
        writer.put(unit)
        fences.append(writer.sink.fence())
    *others, last = fences
    assert committed(last, writer.tools.syncs) >= writer.spec.frame_bytes
    sizes = commit(others, writer.tools.syncs)
    assert len(sizes) == len(others)
    for size in sizes:
        assert isinstance(size, int)
        assert size >= writer.spec.frame_bytes
    writer.check(writer.units)


def test_a_fence_with_nothing_before_it(writer: Writer) -> None:
    assert committed(writer.sink.fence(), writer.tools.syncs) == 0


def test_a_fence_is_committed_once(writer: Writer) -> None:
    writer.put(0)
    fence = writer.sink.fence()
    committed(fence, writer.tools.syncs)
    with pytest.raises(ValueError, match="given up"):
        committed(fence, writer.tools.syncs)


def test_a_settled_fence_is_written(writer: Writer) -> None:
    writer.put(*writer.units)
    fence = writer.sink.fence()
    fence.settle()
    assert fence.is_written
    committed(fence, writer.tools.syncs)
    assert fence.is_written
    fence.settle()


def test_one_is_committed_while_the_next_is_put(writer: Writer) -> None:
    """The pipeline: one job's sync beside the next one's encoding, by two threads."""
    fences: list[Fence] = []
    errors: list[Exception] = []
    there, done = threading.Semaphore(0), threading.Event()

    def commit_all() -> None:
        try:
            for number in range(len(writer.units)):
                assert there.acquire(timeout=30)
                committed(fences[number], writer.tools.syncs)
        except Exception as error:  # noqa: BLE001  told by the test
            errors.append(error)
        done.set()

    threading.Thread(target=commit_all).start()
    for unit in writer.units:
        writer.put(unit)
        fences.append(writer.sink.fence())
        there.release()
    assert done.wait(60)
    assert not errors
    writer.check(writer.units)


def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Gets every file and folder that is synced."""
    synced: list[Path] = []

    def watched(sync: Callable[[int], None]) -> Callable[[int], None]:
        def watch(descriptor: int) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        return watch

    for call in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, call, watched(getattr(os, call)))
    return synced


def test_fences_that_are_committed_together_sync_each_file_once(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of their own, folders of all, and shards in progress that they share."""
    fences = []
    for unit in writer.units[:2]:
        writer.put(unit)
        fences.append(writer.sink.fence())
        fences[-1].settle()
    with monkeypatch.context() as patch:
        synced = watch_syncs(patch)
        assert all(isinstance(size, int) for size in commit(fences, writer.tools.syncs))
    if not isinstance(writer.sink, ToySink):
        assert len(synced) == len(set(synced)) > 0
    writer.check(writer.units[:2])


def test_what_failed_is_put_again(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with monkeypatch.context() as patch:
        fail_for_unit_0(patch)
        with pytest.raises(OSError, match="Input/output error"):
            writer.put_and_commit(0)
        assert not writer.keys()
    assert descriptors() == before
    writer.put_and_commit(0)
    writer.put_and_commit(*writer.units[1:])
    writer.check(writer.units)


@pytest.mark.parametrize("together", [True, False])
def test_a_fence_that_fails_harms_no_other(writer: Writer, monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    """Only what was before that fence is put again."""
    last = writer.units[-1]
    with monkeypatch.context() as patch:
        fail_for_unit_0(patch)
        fences = []
        try:
            writer.put(0)
        except OSError:  # one that syncs at once
            writer.sink.give_up()
        else:
            fences.append(writer.sink.fence())
        writer.put(last)
        fences.append(writer.sink.fence())
        groups = [fences] if together else [[fence] for fence in fences]
        *failed, size = [outcome for group in groups for outcome in commit(group, writer.tools.syncs)]
    for error in failed:
        assert isinstance(error, OSError)
        assert error.errno == errno.EIO
    assert isinstance(size, int)
    writer.put_and_commit(0)
    writer.check([0, last])


def test_fences_that_share_a_file_that_fails_fail_together(
    tmp_path: Path, encoder: type[Encoder], tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs that write into one shard, and a third one that does not."""
    writer = Writer(tmp_path, SINKS["shards"], encoder, tools)
    fences = []
    for unit in (0, 1, 3):
        writer.put(unit)
        fences.append(writer.sink.fence())
        fences[-1].settle()
    with monkeypatch.context() as patch:
        fail_for_unit_0(patch)
        *failed, size = commit(fences, tools.syncs)
    for error in failed:
        assert isinstance(error, OSError)
    assert isinstance(size, int)
    writer.put_and_commit(0, 1)
    writer.check([0, 1, 3])
    writer.sink.close()
    writer.encoder.close()


def test_what_a_fence_can_not_begin_to_finish_is_given_up(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has no more threads."""
    before = descriptors()

    def fail(_: Batch) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        for kind in (KeyBatch, ShardBatch, ToyBatch):
            patch.setattr(kind, "begin_to_finish", fail)
        writer.put(0)
        with pytest.raises(RuntimeError):
            writer.sink.fence()
        assert descriptors() == before
    writer.put_and_commit(*writer.units)
    writer.check(writer.units)


def test_what_is_given_up_leaves_nothing_open(writer: Writer) -> None:
    before = descriptors()
    writer.put(0)
    kept = writer.sink.fence()
    writer.put(*writer.units[1:])
    writer.sink.give_up()
    committed(kept, writer.tools.syncs)  # it was before
    assert descriptors() == before
    writer.check([0])


def test_chunks_that_do_not_last_may_take_more_than_a_buffer(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec adds a few bytes to each, which is much if they are small."""
    monkeypatch.setattr(shard_batch, "BUFFER_BYTES", 1000)
    writer = Writer(tmp_path, SINKS["shards"], ForgetfulEncoder, tools)
    assert writer.put_and_commit(*writer.units) == FRAMES * 16 * 24 * 2
    writer.check(writer.units)


@pytest.mark.parametrize("end", ["committed", "given up"])
@pytest.mark.parametrize(
    "case",
    [
        SINKS["keys"],
        Case(KeySink, "key", "t:inf,y:1024,x:1024"),
        SINKS["shards"],
        Case(ShardSink, "chunk", "t:inf:1:4,y:64,x:64"),
    ],
)
def test_pixels_that_could_not_be_written_are_let_go(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, case: Case, end: str
) -> None:
    """They are a view of the ring, whose memory is only free once nobody holds it."""
    writer = Writer(tmp_path, case, DirectEncoder, tools)
    shape = (1, *writer.spec.frame_shape)

    def fail_to_write() -> weakref.ref[mmap.mmap]:
        memory = mmap.mmap(-1, math.prod(shape) * 2)
        writer.sink.put(writer.layout, 0, writer.encoder.encode(np.ndarray(shape, "<u2", memory)))
        fence = writer.sink.fence()
        if end == "committed":
            assert isinstance(commit([fence], tools.syncs)[0], OSError)
        else:
            fence.give_up()
        return weakref.ref(memory)

    monkeypatch.setattr(os, "pwritev", fail_always)
    gc.disable()
    try:
        pixels = fail_to_write()
        for pool in (tools.files, tools.encoders, tools.pieces, tools.syncs):
            for _ in range(50):  # its threads let go of their last task
                pool.submit(int).result()
        assert pixels() is None
    finally:
        gc.enable()
        writer.sink.close()


def fail_always(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_sink_that_is_closed_holds_nothing(writer: Writer) -> None:
    before = descriptors()
    writer.put(0)
    writer.sink.fence()
    writer.put(1)
    writer.sink.close()
    assert descriptors() == before
    assert not writer.keys()


def test_a_unit_that_is_put_again_is_there_once(writer: Writer) -> None:
    """A job that is run again, by the same writer or after it was killed."""
    for _ in range(2):
        writer.put_and_commit(*writer.units)
    writer.check(writer.units)
    assert not list((writer.folder).rglob("staging"))


def test_another_writer_goes_on_with_what_one_has_left(tmp_path: Path, encoder: type[Encoder], tools: Tools) -> None:
    for name, case in SINKS.items():
        (tmp_path / name).mkdir()
        killed = Writer(tmp_path / name, case, encoder, tools)
        killed.put_and_commit(0)
        killed.put(1)
        killed.sink.fence()  # which nobody commits
        other = Writer(tmp_path / name, case, encoder, tools)
        other.put_and_commit(*other.units[1:])
        killed.sink.close()
        other.check(other.units)
        killed.encoder.close()
        other.encoder.close()


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_what_an_encoder_makes_decides_on_its_sink(tmp_path: Path, tools: Tools, backend: Backend) -> None:
    publisher = Publisher(tmp_path, tmp_path / STAGING, durable=True)
    for cell, dims, sink in (
        ("chunk", SHARDED, ShardSink),
        ("chunk", PLAIN, KeySink),
        ("key", SHARDED, KeySink),
        ("key", PLAIN, KeySink),
    ):
        record = replace(backend, encodes=cell)  # type: ignore[arg-type]
        assert type(sink_of(make_spec("cam", dims), record, publisher, tools)) is sink
