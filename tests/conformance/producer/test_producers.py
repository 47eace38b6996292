"""What every producer must do, whoever wrote it: frames, gaps, a full ring, its own end and the daemon's."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import omewd
from omewd.client.connection import Connection
from tests.conformance.producer.implementations import IMPLEMENTATIONS, ConformingProducer
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

Connect = Callable[[Path, str], ConformingProducer]


@pytest.fixture(params=IMPLEMENTATIONS)
def connect(request: pytest.FixtureRequest) -> Connect:
    implementation: Connect = IMPLEMENTATIONS[request.param]
    return implementation


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that a call ends with; "" if it ends well."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  a producer may have errors of its own
        return str(getattr(error, "code", repr(error)))
    return ""


def append(producer: ConformingProducer, indexes: range, shape: tuple[int, int] = (16, 24)) -> None:
    for index in indexes:
        assert producer.append(make_frame(index, shape, "uint16")) == index


def words_of(process: DaemonProcess) -> memoryview:
    """The segment's words, as a reader maps them."""
    connection = Connection(process.socket)
    _, [descriptor] = connection.request("view", name="cam")
    connection.close()
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size, prot=mmap.PROT_READ)
    os.close(descriptor)
    return memoryview(memory).cast("Q")


def stop_writers(process: DaemonProcess, how: signal.Signals = signal.SIGSTOP) -> None:
    for pid in process.writer_pids():
        os.kill(pid, how)


def test_frames_metadata_and_skips_arrive(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16:8:2,x:24:8:2", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    producer = connect(omewd_daemon.socket, "cam")
    append(producer, range(5))
    producer.skip(4)
    for index in range(9, 30):
        said = {"delta_t": index / 2, "note": "é"}
        assert producer.append(make_frame(index, spec.frame_shape, spec.dtype), said) == index
    producer.skip(2)
    wait_for(lambda: producer.durable >= 28)
    producer.close()
    dataset = omewd_daemon.data / spec.output
    check_dataset(dataset, spec, 32, {5, 6, 7, 8, 30, 31})
    ledger = omewd.open_ledger(dataset)
    assert [ledger[n].gap for n in (5, 31)] == ["skipped", "skipped"]
    assert (ledger[4].metadata, ledger[9].metadata) == (None, {"delta_t": 4.5, "note": "é"})
    assert 0 < (ledger[4].wall_ns or 0) <= (ledger[9].wall_ns or 0)


def test_cursors_and_headers_are_stored_as_the_layout_says(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf:8,y:16,x:24", ring_slots=8))
    producer = connect(omewd_daemon.socket, "cam")
    words = words_of(omewd_daemon)
    published, frontier, gap_kinds, gap_table, headers, stride = 128, 129, 130, 512, 1024, 1024 // 8
    append(producer, range(3))
    assert (words[published], words[frontier], words[gap_kinds]) == (3, 3, 0)
    producer.skip(2)
    assert (words[published], words[frontier], words[gap_kinds]) == (3, 5, 1)
    assert (words[gap_table], words[gap_table + 1]) == (3, 1)
    producer.skip(1)
    assert (words[frontier], words[gap_kinds]) == (6, 1)  # the kind has not changed
    assert producer.append(make_frame(6, (16, 24), "uint16"), {"a": 1}) == 6
    assert [words[headers + slot * stride] for slot in range(4)] == [0, 1, 2, 6]
    slot = headers + 3 * stride
    text = words.obj[slot * 8 + 64 : slot * 8 + 64 + words[slot + 3]]  # type: ignore[index]
    assert json.loads(text) == {"a": 1}
    assert 0 < words[slot + 1] < words[slot + 2]
    producer.close()


def test_a_full_ring_blocks(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    spec = make_spec("cam", "t:inf,y:16,x:24", ring_slots=4)
    omewd_daemon.client.start_stream(spec)
    producer = connect(omewd_daemon.socket, "cam")
    stop_writers(omewd_daemon)
    append(producer, range(4))
    words = words_of(omewd_daemon)
    waiting = threading.Thread(target=append, args=(producer, range(4, 12)))
    waiting.start()
    wait_for(lambda: words[131] == 1)
    assert words[128] == 4
    stop_writers(omewd_daemon, signal.SIGCONT)
    waiting.join(30)
    assert (words[128], words[131]) == (12, 0)
    producer.close()
    check_dataset(omewd_daemon.data / spec.output, spec, 12)


def test_a_full_ring_drops_or_fails(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    for policy in ("drop", "fail"):
        spec = make_spec(policy, "t:inf,y:16,x:24", ring_slots=4, backpressure=policy)
        omewd_daemon.client.start_stream(spec)
    drops, fails = (connect(omewd_daemon.socket, policy) for policy in ("drop", "fail"))
    stop_writers(omewd_daemon)
    frame = make_frame(9, (16, 24), "uint16")
    append(drops, range(4))
    append(fails, range(4))
    assert [drops.append(frame) for _ in range(3)] == [None] * 3
    assert code_of(lambda: fails.append(frame)) == "ring_full"
    stop_writers(omewd_daemon, signal.SIGCONT)
    wait_for(lambda: drops.durable == 7)
    append(drops, range(7, 9))
    wait_for(lambda: fails.durable == 4)
    append(fails, range(4, 6))
    drops.close()
    fails.close()
    check_dataset(omewd_daemon.data / "drop.ome.zarr", make_spec("drop", "t:inf,y:16,x:24"), 9, {4, 5, 6})
    check_dataset(omewd_daemon.data / "fail.ome.zarr", make_spec("fail", "t:inf,y:16,x:24"), 6)
    assert omewd.open_ledger(omewd_daemon.data / "drop.ome.zarr")[5].gap == "dropped"


def test_what_does_not_fit_is_refused_before_anything_is_published(
    omewd_daemon: DaemonProcess, connect: Connect
) -> None:
    spec = make_spec("cam", "t:3,y:16,x:24")
    omewd_daemon.client.start_stream(spec)
    producer = connect(omewd_daemon.socket, "cam")
    frame = make_frame(0, (16, 24), "uint16")
    assert code_of(lambda: producer.append(frame, {"a": "x" * 1000})) == "bad_metadata"
    assert code_of(lambda: producer.append(frame[:-1])) == "bad_frame"
    assert code_of(lambda: producer.append(frame.astype("float32"))) == "bad_frame"
    append(producer, range(3))
    assert code_of(lambda: producer.append(frame)) in ("too_many_frames", "stream_stopped")
    producer.close()
    check_dataset(omewd_daemon.data / spec.output, spec, 3)


def test_a_successor_goes_on_and_a_second_one_is_refused(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    spec = make_spec("cam", "t:inf:2,y:16,x:24", on_producer_loss="wait")
    omewd_daemon.client.start_stream(spec)
    first = connect(omewd_daemon.socket, "cam")
    append(first, range(5))
    assert code_of(lambda: connect(omewd_daemon.socket, "cam")) == "producer_exists"
    first.vanish()
    successors: list[ConformingProducer] = []

    def has_connected() -> bool:
        """The daemon has seen that the first one is gone."""
        with contextlib.suppress(Exception):
            successors.append(connect(omewd_daemon.socket, "cam"))
        return bool(successors)

    wait_for(has_connected)
    [second] = successors
    append(second, range(5, 9))
    second.close()
    check_dataset(omewd_daemon.data / spec.output, spec, 9)


def test_a_stopped_stream_takes_no_more(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    """Exactly the frames that it took are in the dataset, however close the stop came."""
    spec = make_spec("cam", "t:inf,y:16,x:24")
    omewd_daemon.client.start_stream(spec)
    producer = connect(omewd_daemon.socket, "cam")
    taken: list[int | None] = []

    def feed() -> str:
        while True:
            index = producer.append(make_frame(len(taken), (16, 24), "uint16"))
            taken.append(index)
            if len(taken) == 50:
                stopper.start()

    stopper = threading.Thread(target=omewd_daemon.client.stop_stream, args=("cam",))
    assert code_of(feed) == "stream_stopped"
    stopper.join()
    producer.close()
    assert taken == list(range(len(taken)))
    check_dataset(omewd_daemon.data / spec.output, spec, len(taken))


def test_a_failed_stream_is_told(omewd_daemon: DaemonProcess, connect: Connect) -> None:
    spec = make_spec("cam", "t:inf,y:16,x:24", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    producer = connect(omewd_daemon.socket, "cam")
    dataset = omewd_daemon.data / spec.output
    dataset.rename(dataset.with_name("moved"))

    def feed() -> None:
        for _ in range(10_000):
            producer.append(make_frame(0, (16, 24), "uint16"))

    assert code_of(feed) == "stream_failed"
    assert code_of(producer.close) == "stream_failed"


def test_a_daemon_that_is_killed_goes_on_with_the_producer(tmp_path: Path, connect: Connect) -> None:
    spec = make_spec("cam", "t:inf:2,y:16,x:24", ring_slots=8)
    first = DaemonProcess(tmp_path, "--writers", "1", "--memory", "256MiB")
    try:
        first.client.start_stream(spec)
        producer = connect(first.socket, "cam")
        append(producer, range(20))
        wait_for(lambda: first.client.stream_status("cam").frames.durable == 20)  # so that there is room
    finally:
        first.kill()
    append(producer, range(20, 22))  # into the ring
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB") as second:
        append(producer, range(22, 60))
        producer.close()
        check_dataset(second.data / spec.output, spec, 60)
