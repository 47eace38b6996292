"""Publisher: exact bytes, whole files or none, synced in the right order."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omewd.dataset.ledger.appending import append_to
from omewd.dataset.ledger.ledger import FILE, FOLDER
from omewd.store import tools as store_tools
from omewd.store.sinks import keys, publish
from omewd.store.sinks.base import Fence, commit, committed
from omewd.store.sinks.keys import KeyBatch
from omewd.store.sinks.publish import SMALL_FILES_AT_ONCE, Publisher
from omewd.store.tools import Tools

MIB = 1 << 20

Item = tuple[str, Iterable[bytes]]

# The ways by which files get to their place.
WAYS = ("files", "folder", "folder, at once")

LEDGER = f"{FOLDER}/{FILE}"


def append_lines(root: Path, lines: bytes, *, durable: bool = True) -> None:
    (root / FOLDER).mkdir(exist_ok=True)
    append_to(root, lines, durable=durable)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def put(publisher: Publisher, way: str, files: Iterable[Item], *, label: str = "unit0", folder: str = "0") -> None:
    """Publish files (path in the folder, bytes in pieces) in a folder of the dataset."""
    if way == "files":
        publisher.publish(((f"{folder}/{path}", b"".join(pieces)) for path, pieces in files), label=label)
    else:
        put_folders(publisher, [(folder, label, files)], at_once=way == "folder, at once")


def put_folders(publisher: Publisher, folders: Iterable[tuple[str, str, Iterable[Item]]], *, at_once: bool) -> int:
    """Publish folders (path in the dataset, name aside, files) as the sink of plain keys does."""
    with closing(Tools()) as tools:
        batch = KeyBatch(publisher, tools)
        try:
            for folder, label, files in folders:
                if at_once:
                    batch.put_small(folder, label, files, 2)
                else:
                    batch.put_folder(folder, label, files, None)
        except BaseException:
            batch.give_up()
            raise
        return committed(Fence(batch, lambda _: None), tools.syncs)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data" / "staging").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(SMALL_FILES_AT_ONCE) as pool:
        yield pool


@pytest.fixture
def publisher(root: Path, pool: ThreadPoolExecutor) -> Publisher:
    return Publisher(root, root / "staging", durable=True, pool=pool)


def some_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def in_pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    yield data[start:]


@pytest.fixture(params=["direct", "through the cache"])
def open_flags(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The flags of every open; in the second case the filesystem has no O_DIRECT."""
    flags_seen: list[int] = []
    real_open = os.open

    def recording_open(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and request.param != "direct":
            os.close(real_open(path, flags & ~os.O_DIRECT, mode))  # Linux makes the file before it refuses
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        flags_seen.append(flags)
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", recording_open)
    return flags_seen


SIZES = (0, 1, 511, 512, 4095, 4096, 4097, MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "not durable"])
def test_every_size_is_exact(
    open_flags: list[int], root: Path, pool: ThreadPoolExecutor, way: str, durable: bool
) -> None:
    publisher = Publisher(root, root / "staging", durable=durable, pool=pool)
    files = {f"a/{size}": some_bytes(size, seed=size) for size in SIZES}
    put(publisher, way, ((path, (data,)) for path, data in files.items()))
    for path, data in files.items():
        assert (root / "0" / path).read_bytes() == data, path
    assert not list((root / "staging").iterdir())
    assert open_flags


def test_large_writes_go_round_the_page_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags_tried = []
    real_open = os.open

    def recording_open(path: Any, flags: int, mode: int = 0o777) -> int:
        flags_tried.append(flags)
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", recording_open)
    publisher = Publisher(root, root / "staging", durable=False)
    put(publisher, "folder", [("key", (some_bytes(5000),))])
    assert any(flags & os.O_DIRECT for flags in flags_tried)


def test_a_filesystem_without_direct_writes_is_asked_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []
    real_open = os.open

    def refusing_open(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing_open)
    publisher = Publisher(root, root / "staging", durable=True)
    for unit in range(3):
        put(publisher, "folder", [(f"{unit}", (some_bytes(5000),))], label=f"unit{unit}", folder=f"{unit}")
    assert len(refused) == 1


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * 5000,
        [0, 4096, 0, 1, 4095, 0, 8 * MIB, 3],
        [8 * MIB - 1, 1, 1],
        [100_003] * 100,
        [MIB + 1, 5, 9 * MIB, 4096, 7],
    ],
    ids=["single bytes", "empty ones", "just not aligned", "odd", "growing"],
)
def test_pieces_of_any_size_make_the_file(
    open_flags: list[int], root: Path, publisher: Publisher, sizes: list[int], way: str
) -> None:
    data = some_bytes(sum(sizes) + 77)
    for unit in range(2):  # the second time out of a buffer that has been used
        files = [(f"{key}", in_pieces(data, sizes)) for key in range(2)]
        put(publisher, way, files, label=f"unit{unit}", folder=f"{unit}")
    assert open_flags
    for path in ("0/0", "0/1", "1/0", "1/1"):
        assert (root / path).read_bytes() == data


def test_a_piece_may_be_any_buffer(root: Path, publisher: Publisher) -> None:
    frame = np.arange(12, dtype=np.uint16).reshape(3, 4)
    pieces: Any = (frame.data, bytearray(b"ab"), memoryview(b"0123456789")[2:5])
    put(publisher, "folder", [("key", pieces)])
    assert (root / "0/key").read_bytes() == frame.tobytes() + b"ab" + b"234"


def test_short_writes_are_gone_on_with(root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, real_pwritev = os.write, os.pwritev
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:8192]))
    monkeypatch.setattr(os, "pwritev", lambda descriptor, data, at: real_pwritev(descriptor, [data[0][:8192]], at))
    data = some_bytes(MIB + 1)
    publisher.publish([("key", data)], label="unit0")
    put(publisher, "folder", [("key", (data,))])
    append_lines(root, data)
    assert (root / "key").read_bytes() == (root / "0/key").read_bytes() == data
    assert (root / LEDGER).read_bytes() == data


def test_a_file_left_aside_may_be_in_its_place_as_well(root: Path, publisher: Publisher) -> None:
    """As after a power cut in the middle of a rename: it is not written over while readers see it."""
    publisher.publish([("zarr.json", b"old")], label="finalize")
    os.link(root / "zarr.json", root / "staging/finalize-0")
    publisher.write_small_aside([("zarr.json", b"new")], label="finalize")
    assert (root / "zarr.json").read_bytes() == b"old"
    publisher.publish([("zarr.json", b"new")], label="finalize")
    assert (root / "zarr.json").read_bytes() == b"new"
    assert not list((root / "staging").iterdir())


def test_what_a_killed_writer_left_is_overwritten(
    open_flags: list[int], root: Path, publisher: Publisher, way: str
) -> None:
    for left in ("unit7-0", "unit7-1", "unit7/c/5000") if way == "files" else ("unit7/c/5000", "unit7/c/8192"):
        (root / "staging" / left).parent.mkdir(parents=True, exist_ok=True)
        (root / "staging" / left).write_bytes(b"x" * 100_000)
    files = {f"c/{size}": some_bytes(size) for size in (5000, 8192, 0)}
    put(publisher, way, ((path, (data,)) for path, data in files.items()), label="unit7")
    assert open_flags
    for path, data in files.items():
        assert (root / "0" / path).read_bytes() == data, path


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


FAILURES: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "sync": (("fdatasync",), fail),
    "no space": (("write", "pwritev"), no_space),
    "cut": (("ftruncate",), fail),
}


@pytest.mark.parametrize(
    ("way", "failure"),
    [(way, failure) for way in WAYS for failure in FAILURES if (way, failure) != ("files", "cut")],
)
def test_a_failed_write_changes_nothing(
    root: Path,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    failure: str,
) -> None:
    put(publisher, way, [("c/0/old", (b"old",))])
    files = [("c/0/old", (some_bytes(5000),)), ("c/0/new", (some_bytes(5000),)), ("c/1/new", (some_bytes(5000),))]
    with monkeypatch.context() as broken:
        calls, error = FAILURES[failure]
        for call in calls:
            broken.setattr(os, call, error)
        with pytest.raises(OSError, match=r"Input/output error|No space left"):
            put(publisher, way, files, label="unit1")
    place = root / "0"
    assert [path.relative_to(place) for path in sorted((place / "c").rglob("*"))] == [Path("c/0"), Path("c/0/old")]
    assert (place / "c/0/old").read_bytes() == b"old"
    put(publisher, way, files, label="unit1")
    assert (place / "c/0/old").read_bytes() == (place / "c/1/new").read_bytes() == some_bytes(5000)
    assert not list((root / "staging").iterdir())


def test_one_bad_sync_of_many_is_enough(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    real_sync = os.fdatasync

    def sync(descriptor: int) -> None:
        if path_of(descriptor).endswith(("unit0-5", "unit0/5")):
            fail()
        real_sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    with pytest.raises(OSError, match="Input/output error"):
        put(publisher, way, [(f"{n}", (b"1",)) for n in range(20)])
    assert not (root / "0").exists()


def test_a_folder_whose_own_sync_fails_does_not_appear(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(publisher, "folder", [("c/0", (b"1",))])
    assert not (root / "0").exists()


def test_a_folder_that_a_killed_writer_put_in_place_is_written_again(root: Path, publisher: Publisher) -> None:
    """It was killed between the rename and its report: the same files again, each whole at any time."""
    files = {f"{y}/{x}": some_bytes(3000, seed=10 * y + x) for y in range(3) for x in range(3)}
    for _ in range(2):
        put(publisher, "folder", ((path, (data,)) for path, data in files.items()), folder="0/c/5")
        assert {str(p.relative_to(root / "0/c/5")): p.read_bytes() for p in (root / "0/c/5").glob("*/*")} == files
        assert not list((root / "staging").iterdir())


def test_a_failed_folder_sync_is_an_error(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher.publish([("c/0", b"1"), ("d/0", b"1")], label="unit0")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        publisher.publish([("c/1", b"1")], label="unit1")
    with pytest.raises(OSError, match="Input/output error"):
        publisher.publish([("c/1", b"1"), ("d/1", b"1")], label="unit1")


def test_nobody_still_writes_after_a_failure(publisher: Publisher) -> None:
    """The unit's job is given out again at once, to a writer that uses the same names aside."""
    may_go_on, done = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        assert may_go_on.wait(60)
        yield b"slow"
        done.set()

    def files() -> Iterator[Item]:
        yield "slow", slow()
        yield "the other of its group", (b"1",)
        threading.Timer(0.1, may_go_on.set).start()
        raise OSError(errno.EIO, "the third key failed")

    with pytest.raises(OSError, match="the third key"):
        put(publisher, "folder, at once", files())
    assert done.is_set()


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "replaced"])
def test_a_key_is_there_whole_or_not_at_all(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, way: str, old: bytes | None
) -> None:
    key, data = root / "0/c/0", some_bytes(20 * MIB)
    if old is not None:
        key.parent.mkdir(parents=True)
        key.write_bytes(old)
    moments = []

    def look() -> None:
        moments.append(key.read_bytes() if key.exists() else None)

    def pieces() -> Iterator[bytes]:
        for piece in in_pieces(data, [MIB] * 19):
            look()
            yield piece

    real_sync = os.fdatasync

    def sync(descriptor: int) -> None:
        look()
        real_sync(descriptor)
        look()

    monkeypatch.setattr(os, "fdatasync", sync)
    put(publisher, way, [("c/0", pieces())])
    assert len(moments) == 22
    assert set(moments) == {old}
    assert key.read_bytes() == data


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every sync and rename, in order."""
    seen: list[tuple[str, str]] = []

    def recorded(name: str, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            real(descriptor)
            seen.append((name, path_of(descriptor)))

        return sync

    real_rename = os.rename

    def rename(source: Any, target: Any) -> None:
        real_rename(source, target)
        seen.append(("rename", str(target)))

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync))
    monkeypatch.setattr(os, "fdatasync", recorded("fdatasync", os.fdatasync))
    monkeypatch.setattr(os, "rename", rename)
    return seen


def test_data_then_name_then_folders_are_synced(
    root: Path, publisher: Publisher, events: list[tuple[str, str]]
) -> None:
    publisher.publish([("0/c/0/0", b"1"), ("0/c/1/0", b"2")], label="unit0")
    for n, key in enumerate(("0/c/0/0", "0/c/1/0")):
        data, name = events.index(("fdatasync", f"{root}/staging/unit0-{n}")), events.index(("rename", f"{root}/{key}"))
        folder = events.index(("fsync", str((root / key).parent)), name)
        assert data < name < folder
    for folder_made in ("0", "0/c", "0/c/0", "0/c/1"):  # the name of a folder is in the one above
        assert ("fsync", str((root / folder_made).parent)) in events


@pytest.mark.parametrize("small", [False, True], ids=["one by one", "at once"])
def test_a_folder_is_synced_inside_before_it_gets_its_name(
    root: Path, publisher: Publisher, events: list[tuple[str, str]], small: bool
) -> None:
    folders = [(f"0/c/{unit}", f"unit{unit}", [("0/0", (b"1",)), ("1/0", (b"2",))]) for unit in range(2)]
    assert put_folders(publisher, folders, at_once=small) == 4
    for unit in range(2):
        aside = f"{root}/staging/unit{unit}"
        name = events.index(("rename", f"{root}/0/c/{unit}"))
        inside = [("fdatasync", f"{aside}/0/0"), ("fdatasync", f"{aside}/1/0")]
        inside += [("fsync", f"{aside}/0"), ("fsync", f"{aside}/1"), ("fsync", aside)]
        assert all(events.index(event) < name for event in inside)
        assert events.index(("fsync", f"{root}/0/c")) > name
    assert {("fsync", str(root)), ("fsync", f"{root}/0")} <= set(events)
    assert len([name for name, _ in events if name == "rename"]) == 2


def test_folders_that_another_writer_made_are_synced_too(
    root: Path, publisher: Publisher, events: list[tuple[str, str]]
) -> None:
    (root / "0/c/0").mkdir(parents=True)
    publisher.publish([("0/c/0/0", b"1")], label="unit0")
    for folder in (root, root / "0", root / "0/c", root / "0/c/0"):
        assert ("fsync", str(folder)) in events


def test_known_folders_cost_no_more_than_their_own_sync(publisher: Publisher, events: list[tuple[str, str]]) -> None:
    publisher.publish([("0/c/0/0", b"1")], label="unit0")
    events.clear()
    publisher.publish([("0/c/0/1", b"1")], label="unit1")
    assert [name for name, _ in events] == ["fdatasync", "rename", "fsync"]


@pytest.mark.parametrize("killed", [True, False], ids=["killed before the sync", "the sync failed"])
def test_the_name_of_a_folder_that_was_there_is_synced_by_the_next_try(
    root: Path, publisher: Publisher, events: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    if killed:
        (root / "0/c/6/0").mkdir(parents=True)
        (root / "0/c/6/0/0").write_bytes(b"1")
    else:
        real_sync = os.fsync

        def sync(descriptor: int) -> None:
            if path_of(descriptor) == f"{root}/0/c":
                fail()
            real_sync(descriptor)

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", sync)
            with pytest.raises(OSError, match="Input/output error"):
                put(publisher, "folder", [("0/0", (b"1",))], folder="0/c/6")
    events.clear()
    put(publisher, "folder", [("0/0", (b"1",))], folder="0/c/6")
    for folder in ("0/c", "0/c/6", "0/c/6/0"):
        assert ("fsync", str(root / folder)) in events


def test_without_durability_nothing_is_synced(root: Path, events: list[tuple[str, str]]) -> None:
    publisher = Publisher(root, root / "staging", durable=False)
    publisher.publish([("c/0/0", b"1"), ("c/0/1", b"1")], label="unit0")
    append_lines(root, b"line\n", durable=False)
    assert {name for name, _ in events} == {"rename"}


def test_an_append_is_synced(root: Path, events: list[tuple[str, str]]) -> None:
    append_lines(root, b"one\n")
    append_lines(root, b"two\n")
    assert (root / LEDGER).read_bytes() == b"one\ntwo\n"
    assert events == [("fdatasync", f"{root}/{LEDGER}")] * 2


@pytest.mark.parametrize("open_files", [0, 100, 256], ids=["none stays open", "some stay open", "all stay open"])
def test_small_files_are_synced_when_all_are_written(
    root: Path,
    publisher: Publisher,
    events: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    open_files: int,
) -> None:
    """A journal then commits them together; but no more stay open than a process may have."""
    monkeypatch.setattr(store_tools, "FILES_LEFT_OPEN", open_files)
    there = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    open_then: list[int] = []

    def at(name: str) -> None:
        if name == "writer: files written":
            open_then.append(len(set(os.listdir("/proc/self/fd")) - there))  # noqa: PTH208
            events.append((name, ""))

    monkeypatch.setattr(keys, "point", at)
    put(publisher, "folder, at once", [(f"{n}", (b"%d" % n,)) for n in range(200)])
    written = events.index(("writer: files written", ""))
    synced = [where for where, (name, _) in enumerate(events) if name == "fdatasync"]
    assert len(synced) == 200
    assert sum(where > written for where in synced) == min(open_files, 200)
    assert open_then[0] <= open_files + 8
    assert len(set(os.listdir("/proc/self/fd")) - there) <= 8  # noqa: PTH208
    assert [(root / "0" / f"{n}").read_bytes() for n in range(200)] == [b"%d" % n for n in range(200)]


def test_all_jobs_of_a_writer_together_leave_few_small_files_open(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_tools, "FILES_LEFT_OPEN", 100)
    there = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with closing(Tools()) as tools:
        for name in ("first", "again"):  # what has been left open is closed, and makes room for others
            batches = [KeyBatch(publisher, tools) for _ in range(4)]
            for number, batch in enumerate(batches):
                label = f"{name}-{number}"
                batch.put_small(label, label, [(f"{n}", (b"%d" % n,)) for n in range(60)], 64)
            for batch in batches:
                batch.settle()
            assert 60 <= len(os.listdir("/proc/self/fd")) - there <= 100 + 8  # noqa: PTH208
            sizes = commit([Fence(batch, lambda _: None) for batch in batches], tools.syncs)
            assert sizes == [sum(len(str(n)) for n in range(60))] * 4
            assert len(os.listdir("/proc/self/fd")) - there <= 8  # noqa: PTH208
            assert {len(list((root / f"{name}-{n}").iterdir())) for n in range(4)} == {60}


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_no_file_stays_open_after_a_failure(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    put(publisher, "folder, at once", [("0", (b"1",))], label="first", folder="first")
    there = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(publisher, "folder, at once", [(f"{n}", (b"1",)) for n in range(50)])
    assert len(os.listdir("/proc/self/fd")) <= there  # noqa: PTH208


def test_many_small_files_at_once(root: Path, publisher: Publisher) -> None:
    files = {f"c/{n % 7}/{n}": some_bytes(3000 + n, seed=n) for n in range(300)}
    folder = ("0", "unit0", ((path, (data,)) for path, data in files.items()))
    assert put_folders(publisher, [folder], at_once=True) == sum(map(len, files.values()))
    for path, data in files.items():
        assert (root / "0" / path).read_bytes() == data


def test_what_is_remembered_of_folders_is_bounded(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_FOLDERS_REMEMBERED", 5)
    kept = [value for value in vars(publisher).values() if isinstance(value, set)]
    assert kept
    for n in range(20):
        publisher.publish([(f"c/{n}/0/0", b"1")], label=f"unit{n}")
        assert max(map(len, kept)) < 5 + 5  # those, and one unit's
    assert len(list((root / "c").glob("*/0/0"))) == 20
