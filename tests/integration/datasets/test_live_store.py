"""Reading a dataset through zarr and dask while it is recorded: what is durable, bit for bit, and never black."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pickle
import random
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.dataset.ledger.ledger import APPENDING_BYTE, RECORDING_BYTE
from omewd.model.spec.spec import StreamSpec
from omewd.process.locks import is_locked, try_lock
from omewd.reader import keys_of_pixels
from omewd.reader.contents import LOST_AT
from omewd.reader.keyed import KeyedReader
from omewd.store.format.shard_index import entries_at_end, index_bytes, read_entries
from tests.support.acquisitions import Frames, axes_of, check_acquisition, expected_image, folders_of, halved
from tests.support.daemons import DaemonProcess, daemon
from tests.support.frames import Array, make_frame, make_spec
from tests.support.processes import paused, start_python, wait_for

STREAMS: dict[str, dict[str, Any]] = {
    "raw shards": {"dims": "t:inf:1:50,y:64:64:1,x:64:32:2", "levels": 2},
    "compressed shards": {"dims": "t:inf:2:25,y:16:8:2,x:24:8:2", "compression": "blosc-zstd", "levels": 2},
    "stacks": {"dims": "t:inf:1:8,c:2,z:4:2:2,y:16:8:2,x:24:8:2", "compression": "zstd", "levels": 2},
    "positions": {"dims": "t:inf:2:8,p:3,y:17:8:3,x:24:8:2", "levels": 2},
    "one position after the other": {"dims": "p:3,t:40:4:2,y:17:8:3,x:24:8:2", "levels": 2},
    "chunks": {"dims": "t:inf:2,y:17:8,x:24", "levels": 2},
    "whole shards": {"dims": "t:inf:1:4,y:16:8:2,x:24", "backend": "tensorstore", "levels": 2},
    "compressed chunks": {"dims": "t:inf:2,y:16,x:24", "compression": "zstd", "backend": "tensorstore"},
}
# Those of whole rounds, where arrays show nothing else.
_COUNTS = {"stacks": 128, "positions": 132, "one position after the other": 120}
GAPS = {3, 4, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50}


def frames_of(spec: StreamSpec, count: int, gaps: set[int] = GAPS) -> list[Array | None]:
    return [None if n in gaps else make_frame(n, spec.frame_shape, spec.dtype) for n in range(count)]


def feed(producer: omewd.Producer, frames: Frames) -> None:
    for frame in frames:
        if frame is None:
            producer.skip()
        else:
            producer.append(frame, timeout=60)


def pyramids(spec: StreamSpec, arrivals: list[Frames]) -> list[list[Array]]:
    """All pixels of each image at each resolution, as a plain model has them."""
    found = []
    for image in range(len(folders_of(spec))):
        full = expected_image(spec, image, arrivals)
        assert full is not None
        levels = [full]
        axes = axes_of(spec)
        for number in range(1, spec.levels):
            deep = spec.dimensions[axes.index("z")].chunk_size == 2 and number == 1 if "z" in axes else False
            halves = [*([axes.index("z")] if deep else []), len(axes), len(axes) + 1]
            levels.append(halved(*levels[-1], halves, spec.downsample))
        found.append([pixels for pixels, _ in levels])
    return found


def check_live(store: Any, spec: StreamSpec, expected: list[list[Array]], *, lazily: bool = False) -> int:
    """Read all arrays of a store, and compare; returns the number of frames that they show at the full resolution."""
    import dask.array
    import zarr

    lazy: Any = dask.array
    shown = 0
    group: Any = zarr.open_group(store, mode="r")
    for folder, levels in zip(folders_of(spec), expected, strict=True):
        for number, pixels in enumerate(levels):
            array: Any = group[f"{folder}{number}"]
            assert all(a <= b for a, b in zip(array.shape, pixels.shape, strict=True))
            shown += 0 if number else int(np.prod(array.shape[:-2]))
            if 0 not in array.shape:
                whole = np.asarray(lazy.from_zarr(array)) if lazily else array[...]
                assert np.array_equal(whole, pixels[tuple(slice(0, n) for n in array.shape)]), (folder, number)
    return shown


@pytest.mark.parametrize(
    ("stream", "by_path"), [*((stream, False) for stream in STREAMS), ("raw shards", True), ("positions", True)]
)
def test_what_is_durable_is_there_while_it_is_recorded(omewd_daemon: DaemonProcess, stream: str, by_path: bool) -> None:
    """In shards in progress, over their sealing, and after the end; the store stays the same."""
    fields = dict(STREAMS[stream])
    spec = make_spec("cam", fields.pop("dims"), ring_slots=60, **fields)
    omewd_daemon.client.start_stream(spec)
    dataset = omewd_daemon.data / spec.output
    frames = frames_of(spec, _COUNTS.get(stream, 131))
    expected = pyramids(spec, [frames])
    open_store = (
        partial(omewd.live_store, dataset) if by_path else partial(omewd.live_store, "cam", socket=omewd_daemon.socket)
    )
    with omewd_daemon.connect("cam") as producer:
        store = open_store()
        assert check_live(store, spec, expected) == 0
        done = 0
        for stop in (37, 90, len(frames)):
            feed(producer, frames[done:stop])
            done = stop
            wait_for(lambda: producer.durable > done - 24)  # noqa: B023
            durable = producer.durable
            shown = check_live(store, spec, expected)
            assert done >= shown > durable - 8
        assert check_live(pickle.loads(pickle.dumps(store)), spec, expected, lazily=True) >= shown
    assert check_live(store, spec, expected, lazily=True) == len(frames)
    check_acquisition(dataset, spec, [frames])
    assert check_live(omewd.live_store(dataset), spec, expected) == len(frames)


CAMERA = """
import sys, time, omewd
from pathlib import Path
from tests.support.frames import make_frame
producer = omewd.connect("cam", socket=sys.argv[1])
for index in range(600):
    while not (Path(sys.argv[2]) / f"round-{index // 60}").exists():
        time.sleep(0.01)
    producer.append(make_frame(index, producer.shape, str(producer.dtype)), timeout=60)
producer.close()
"""


def check_frames(array: Any, indexes: range) -> None:
    found = np.asarray(array[indexes.start : indexes.stop])
    for index, pixels in zip(indexes, found, strict=True):
        assert pixels.tobytes() == make_frame(index, pixels.shape, "uint16").tobytes(), index


@pytest.mark.parametrize("compression", [None, "blosc-lz4"])
def test_row_34_a_reader_of_a_run_whose_writers_are_killed(
    omewd_daemon: DaemonProcess, tmp_path: Path, compression: str | None
) -> None:
    """By a camera in a process of its own. Arrays that were opened early go on over the sealing of their shards."""
    import zarr

    spec = make_spec("cam", "t:600:1:20,y:64:64,x:64:32:2", compression=compression, levels=2, ring_slots=60)
    omewd_daemon.client.start_stream(spec)
    store = omewd.live_store("cam", socket=omewd_daemon.socket)
    camera = start_python(CAMERA, str(omewd_daemon.socket), str(tmp_path))
    rng, opened = random.Random(3), [zarr.open_array(store, path="0", mode="r")]
    deadline = time.monotonic() + 100
    try:
        for number in range(10):
            (tmp_path / f"round-{number}").touch()
            if number % 3 == 1:
                omewd_daemon.kill_a_writer()
            while opened[-1].shape[0] < 60 * (number + 1) and time.monotonic() < deadline:
                array: Any = zarr.open_array(store, path="0", mode="r")
                if array.shape[0] > opened[-1].shape[0]:
                    opened.append(array)
                    for old in rng.sample(opened[1:], min(len(opened) - 1, 2)):
                        first = rng.randrange(old.shape[0])
                        check_frames(old, range(first, min(first + 7, old.shape[0])))
        _, err = camera.communicate(timeout=60)
    finally:
        camera.kill()
        camera.wait()
    assert camera.returncode == 0, err
    assert len(opened) > 10
    check_frames(opened[1], range(opened[1].shape[0]))
    check_acquisition(omewd_daemon.data / spec.output, spec, [frames_of(spec, 600, set())])


def test_what_a_client_has_read_of_a_shard_in_progress_stays_right(omewd_daemon: DaemonProcess) -> None:
    """The offsets, the size and the place of the index, as more chunks come and over the sealing."""
    spec = make_spec("cam", "t:24:1:8,y:16:16:1,x:24:24:1", compression="zstd", ring_slots=24)
    omewd_daemon.client.start_stream(spec)
    reader = KeyedReader.of_stream("cam", socket=omewd_daemon.socket)
    key, chunks = "0/c/0/0/0", 8

    def index(key: str = key) -> tuple[int, str, Array]:
        content = reader.open(key)
        assert content is not None
        with content:
            text = content.suffix(16 * chunks + 4)
            assert content.read(content.size - len(text), content.size) == text
            assert content.read_all()[-len(text) :] == text
            return content.size, content.etag, np.array(entries_at_end(memoryview(text), chunks))

    assert reader.open(key) is None
    with omewd_daemon.connect("cam") as producer:
        for frame in range(3):
            producer.append(make_frame(frame, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == 3)
        early = index()
        assert (early[2][:, 0] < 2**63).sum() == 3
        held = reader.open(key)
        assert held is not None
        for frame in range(3, 6):
            producer.append(make_frame(frame, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == 6)
        later = index()
        assert (later[0], (later[2][:3] == early[2][:3]).all(), later[1] != early[1]) == (early[0], True, True)
        assert (later[2][:, 0] < 2**63).sum() == 6
        for frame in range(6, 24):
            producer.append(make_frame(frame, spec.frame_shape, spec.dtype))
    sealed = index()
    assert (sealed[2][:6] == later[2][:6]).all()
    offset, length = map(int, early[2][1])
    final = reader.open(key)
    assert final is not None
    assert held.read(offset, offset + length) == final.read(offset, offset + length) != b""
    assert final.is_final
    assert final.read_all() == (omewd_daemon.data / spec.output / key).read_bytes()
    for content in (held, final):
        content.close()
    reader.close()


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("dims", ["t:8:1:4,y:16:8:2,x:16:8:2", "t:8:2,y:16,x:16"])
def test_row_34_what_is_lost_is_an_error_and_never_black(omewd_daemon: DaemonProcess, dims: str, backend: str) -> None:
    """For any client: the index leads to the lost chunk, and who reads there gets the error."""
    import zarr

    spec = make_spec("cam", dims, compression="zstd", backend=backend)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 8, {0, 1}))
    dataset = omewd_daemon.data / spec.output
    keys = {path: path.read_bytes() for path in dataset.glob("0/c/*/0/0")}
    lost = dataset / "0/c/1/0/0"
    store = omewd.live_store(dataset)

    def read(frames: slice) -> Any:
        return zarr.open_array(store, path="0", mode="r")[frames]

    assert not read(slice(0, 2)).any()
    for bad in (b"", keys[lost][:-1] + bytes([keys[lost][-1] ^ 1]), None):
        if spec.sharded or not bad:
            lost.write_bytes(bad) if bad is not None else lost.unlink()
            for frames in (slice(0, 8), slice(lost_first := 4 if spec.sharded else 2, lost_first + 1)):
                with pytest.raises(omewd.OmewdError) as refusal:
                    read(frames)
                assert refusal.value.code == "not_stored"
    assert omewd_daemon.omewd("repair", str(dataset)).returncode in (0, 5)  # now it is on record as lost
    again = omewd.live_store(dataset)
    with pytest.raises(omewd.OmewdError, match="lost"):
        zarr.open_array(again, path="0", mode="r")[...]
    assert np.asarray(read(slice(3 if spec.sharded else 6, 4 if spec.sharded else 7))).any()


def test_row_34_a_chunk_that_is_lost_in_a_shard(omewd_daemon: DaemonProcess) -> None:
    """A shard of which the ledger has more than its index: the other chunks can be read."""
    import zarr

    spec = make_spec("cam", "t:4:1:4,y:16,x:16", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 4, {1}))
    shard = omewd_daemon.data / spec.output / "0/c/0/0/0"
    data = shard.read_bytes()
    entries = np.array(entries_at_end(memoryview(data), 4))
    entries[2] = 2**64 - 1
    whole = index_bytes(entries)
    shard.write_bytes(data[: -len(whole)] + whole)
    store = omewd.live_store(omewd_daemon.data / spec.output)
    array: Any = zarr.open_array(store, path="0", mode="r")
    assert not array[1].any()
    check_frames(array, range(3, 4))
    with pytest.raises(omewd.OmewdError, match="chunk 2 of 0/c/0/0/0"):
        array[2]
    with pytest.raises(omewd.OmewdError, match="chunk 2 of 0/c/0/0/0"):
        array[...]
    ledger = store.path / "omewd" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text(
        "".join(line for line in lines if '"frame":2,' not in line)
    )  # it was never written, and is no gap
    (store.path / "omewd" / "ledger.runs").unlink()
    content = KeyedReader.of_dataset(store.path).open("0/c/0/0/0")
    assert content is not None
    with content:
        found = entries_at_end(memoryview(content.suffix(68)), 4)
        assert int(found[2, 0]) == LOST_AT + 2
        with pytest.raises(omewd.OmewdError):
            content.read(LOST_AT + 2, LOST_AT + 3)


def test_row_34_readers_wait_for_no_lock_of_writers(omewd_daemon: DaemonProcess) -> None:
    """All that writers lock is locked, and they stand still."""
    spec = make_spec("cam", "t:inf:1:8,y:64:64,x:64:64", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    frames = frames_of(spec, 11, set())
    expected = pyramids(spec, [frames])
    dataset = omewd_daemon.data / spec.output
    with omewd_daemon.connect("cam") as producer, ExitStack() as locked:
        feed(producer, frames)
        wait_for(lambda: producer.durable == 11)
        stores = [omewd.live_store("cam", socket=omewd_daemon.socket), omewd.live_store(dataset)]
        locked.enter_context(paused(omewd_daemon.writer_pids()))
        tables = list(dataset.glob("omewd/staging/*.table"))
        assert tables
        for table in tables:
            with suppress(BlockingIOError):  # a writer that stands still has it
                fcntl.flock(locked.enter_context(table.open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        ledger = locked.enter_context((dataset / "omewd" / "ledger.jsonl").open("r+b"))
        for byte in (APPENDING_BYTE, RECORDING_BYTE):
            assert try_lock(ledger.fileno(), byte) or is_locked(ledger.fileno(), byte)
        for store in stores:
            assert check_live(store, spec, expected) == 11


def test_a_store_goes_on_under_the_next_daemon(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:inf:1:8,y:64:64,x:64:64", ring_slots=40)
    frames = frames_of(spec, 20, set())
    expected = pyramids(spec, [frames])
    with daemon(tmp_path, "--on-stop", "keep") as first:
        first.client.start_stream(spec)
        with first.connect("cam") as producer:
            feed(producer, frames[:5])
            wait_for(lambda: producer.durable == 5)
            store = omewd.live_store("cam", socket=first.socket)
            assert first.stop() == 0
            feed(producer, frames[5:10])
            assert check_live(store, spec, expected) == 5
            with daemon(tmp_path) as second:
                wait_for(lambda: producer.durable == 10)
                assert check_live(store, spec, expected) == 10
                feed(producer, frames[10:])
                second.client.stop_stream("cam")
                producer.close()
                assert check_live(store, spec, expected) == 20


def test_row_34_a_shard_in_progress_that_was_cut_off(omewd_daemon: DaemonProcess) -> None:
    """Its unused room reads as zeros, and what is missing does not."""
    import zarr

    spec = make_spec("cam", "t:inf:1:8,y:64:64,x:64:64")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 5, set()))
        wait_for(lambda: producer.durable == 5)
        store = omewd.live_store("cam", socket=omewd_daemon.socket)
        array: Any = zarr.open_array(store, path="0", mode="r")
        check_frames(array, range(5))
        staged = omewd_daemon.data / spec.output / "omewd/staging/shard-0-0-0-0-0"
        whole = staged.read_bytes()
        os.truncate(staged, 4 * 8192 - 100)
        for frames in (slice(3, 4), slice(0, 5)):
            with pytest.raises(omewd.OmewdError, match="chunk 3 of 0/c/0/0/0"):
                array[frames]
        check_frames(array, range(3))
        os.truncate(staged, 5 * 8192)
        content = KeyedReader.of_dataset(store.path).open("0/c/0/0/0")
        assert content is not None
        with content:
            assert content.read(5 * 8192, 8 * 8192) == bytes(3 * 8192)
        staged.write_bytes(whole)
        check_frames(array, range(5))


def test_row_34_keys_lead_nowhere_else(omewd_daemon: DaemonProcess) -> None:
    """Not out of the dataset, not to what writers need, and not to what is not one of its keys."""
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16", levels=2)
    omewd_daemon.client.start_stream(spec)
    (omewd_daemon.data / "secret").write_text("secret")
    dataset = omewd_daemon.data / spec.output
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 6, set()))
        wait_for(lambda: producer.durable == 6)
        (dataset / "link").symlink_to(omewd_daemon.data / "secret")
        (dataset / "folder").symlink_to(omewd_daemon.data)
        (dataset / "notes").mkdir()
        (dataset / "notes" / "of-a-user.txt").write_text("hello")
        os.mkfifo(dataset / "pipe")
        reader = KeyedReader.of_stream("cam", socket=omewd_daemon.socket)
        elsewhere = "/ . .. ../secret 0/../../secret /etc/passwd link folder/secret pipe notes"
        no_keys = (
            "0 0/c 0/c/0 0/c/0/0 0/c/00/0/0 0/c/2/0/0 0/c/0/0/1 0/c/0/0/0/0 2/c/0/0/0 0/c/-1/0/0 0/c/x/0/0 0//zarr.json"
        )
        own = "omewd/staging omewd/staging/shard-0-0-1-0-0 omewd/staging/shard-0-0-1-0-0.table"
        absurd = ["", "zarr.json\0", "a" * 300, f"0/c/{9**30}/0/0", f"{9**30}/c/0/0/0"]
        for key in [*elsewhere.split(), *no_keys.split(), *own.split(), *absurd]:
            assert reader.open(key) is None, key
        assert {name for name, _ in reader.list_folder("")} == {"0", "1", "notes", "omewd", "zarr.json"}
        assert {name for name, _ in reader.list_folder("omewd")} == {"ledger.jsonl", "ledger.runs", "zarr.json"}
        store = omewd.live_store(dataset)
        assert sorted(asyncio.run(_all(store.list_prefix("0/")))) == ["0/c/0/0/0", "0/c/1/0/0", "0/zarr.json"]
        assert asyncio.run(_all(store.list_prefix("0/c/1"))) == ["0/c/1/0/0"]
        assert "notes/of-a-user.txt" in asyncio.run(_all(store.list()))
        with pytest.raises(ValueError, match="read-only"):
            asyncio.run(store.delete("zarr.json"))
        reader.close()


async def _all(names: AsyncIterator[str]) -> list[str]:
    return [name async for name in names]


def test_row_34_a_dataset_that_is_replaced_while_it_is_read(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:4:1:4,y:16,x:16", overwrite=True)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 4, set()))
    stores = [omewd.live_store("cam", socket=omewd_daemon.socket), omewd.live_store(omewd_daemon.data / spec.output)]
    omewd_daemon.client.start_stream(spec)
    for store in stores:
        with pytest.raises(omewd.OmewdError, match="another stream has replaced it"):
            asyncio.run(store.exists("zarr.json"))
        with pytest.raises(omewd.OmewdError, match="another stream has replaced it"):
            pickle.loads(pickle.dumps(store))
    with pytest.raises(omewd.OmewdError) as refusal:
        omewd.live_store("nosuch", socket=omewd_daemon.socket)
    assert refusal.value.code == "unknown_stream"
    with pytest.raises(omewd.OmewdError) as refusal:
        omewd.live_store("./nosuch")
    assert refusal.value.code == "not_a_dataset"


@pytest.mark.parametrize(
    "dims", ["t:20:4:2,c:3,y:24:8:3,x:32:16:2", "c:3,t:20:4:2,y:24:8:3,x:32:16:2", "t:20:2,p:3,y:24,x:32"]
)
def test_several_cameras_that_are_not_equally_far(omewd_daemon: DaemonProcess, dims: str) -> None:
    spec = make_spec("cams", dims, source_dimension="p" if "p" in dims else "c", levels=2)
    omewd_daemon.client.start_stream(spec)
    arrivals: list[Frames] = [
        [make_frame(n + 1000 * source, spec.frame_shape, spec.dtype) for n in range(20)] for source in range(3)
    ]
    expected = pyramids(spec, arrivals)
    store = omewd.live_store("cams", socket=omewd_daemon.socket)
    producers = [omewd.connect("cams", source=source, socket=omewd_daemon.socket) for source in range(3)]
    for source, count in enumerate((20, 12, 8)):
        feed(producers[source], arrivals[source][:count])
    wait_for(lambda: [producer.durable for producer in producers] == [20, 12, 8])
    assert check_live(store, spec, expected) == (40 if "p" in dims else 24)
    for source, count in enumerate((20, 12, 8)):
        feed(producers[source], arrivals[source][count:])
    for producer in producers:
        producer.close()
    assert check_live(store, spec, expected, lazily=True) == 60


def test_a_plate_is_a_plate_while_it_is_recorded(omewd_daemon: DaemonProcess) -> None:
    positions = [
        omewd.Position(name=f"{row}{column}", plate_row=row, plate_column=column) for row in "AB" for column in "12"
    ]
    t, y, x = omewd.parse_dims("t:6:2:3,y:16:8:2,x:16:8:2")
    wells = omewd.Dimension(name="p", type="position", count=4, coords=tuple(positions))
    spec = StreamSpec(
        name="cam",
        output="cam.ome.zarr",
        dimensions=(t, wells, y, x),
        plate=omewd.Plate(row_names=("A", "B"), column_names=("1", "2")),
        levels=2,
        compression="blosc-zstd",
        ring_slots=24,
    )
    omewd_daemon.client.start_stream(spec)
    frames = frames_of(spec, 24, set())
    expected = pyramids(spec, [frames])
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames[:10])
        wait_for(lambda: producer.durable == 8)
        store = omewd.live_store("cam", socket=omewd_daemon.socket)
        assert check_live(store, spec, expected) == 8
        feed(producer, frames[10:])
    assert check_live(store, spec, expected) == 24


def test_a_shard_that_is_just_being_taken_back_is_looked_for_again(
    omewd_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index is overwritten as soon as the shard is in staging again; a torn one stays an error."""
    spec = make_spec("cam", "t:8:1:8,y:16:16:1,x:24:24:1")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        feed(producer, frames_of(spec, 8, set()))
    answers = [None, None]

    def read(descriptor: int, chunks: int) -> Array | None:
        return answers.pop() if answers else read_entries(descriptor, chunks)

    monkeypatch.setattr(keys_of_pixels, "read_entries", read)
    reader = KeyedReader.of_dataset(omewd_daemon.data / spec.output)
    content = reader.open("0/c/0/0/0")
    assert content is not None
    assert content.read_all() == (omewd_daemon.data / spec.output / "0/c/0/0/0").read_bytes()
    content.close()
    reader.close()
    answers = [None] * 10
    reader = KeyedReader.of_dataset(omewd_daemon.data / spec.output)
    with pytest.raises(omewd.OmewdError, match="torn index"):
        reader.open("0/c/0/0/0")
    reader.close()
