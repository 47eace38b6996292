"""The status as JSON: its fields are what scripts rely on, and older and newer programs can read it."""

from __future__ import annotations

import json

import pytest

from omewd.daemon.control.status import rates_of_drives, stream_status
from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, KeptRingStatus, MemoryStatus, StreamStatus, WriterStatus, read_status
from omewd.protocol.versions import STATUS, Version
from tests.unit.cameras import camera_of, cameras

STREAM_FIELDS = {
    "id", "name", "state", "settled", "path", "dtype", "frame_shape", "frame_bytes", "samples", "images", "levels",
    "backend", "backend_reason", "compression", "backpressure", "durability", "frames", "lost", "kept_in_ring", "ring",
    "sources", "throughput", "paused", "disk", "waits", "recent_waits", "wait_counts", "retries", "producer",
    "ended_by", "error", "acknowledged", "copy", "expect_fps", "status_version",
}  # fmt: skip
DAEMON_FIELDS = {
    "version", "pid", "uptime_s", "stopping", "data_roots", "memory", "backends", "writers", "kept_rings", "streams",
    "streams_not_shown", "copies", "copiers", "status_version",
}  # fmt: skip
FRAMES = {"declared", "received", "written", "gaps", "skipped", "dropped", "lost", "in_flight", "durable", "copied"}
RING = {"slots", "used", "bytes", "window"}


def test_fields_that_scripts_rely_on_are_there() -> None:
    with cameras("t:4:2,v:2,y:2,x:3", "left", "right", capacity=8) as its:
        stream = its[0].stream
        its[0].publish(4)
        stream.poll(5)
        its[0].take()
        its[0].finish()
        stream.fail(OmewdError("disk_full", "no space", "Free some"), 6)
        stream.tell_loss()
        status = json.loads(json.dumps(stream_status(stream, 10**9).to_json()))
    assert set(status) == STREAM_FIELDS
    assert set(status["frames"]) == FRAMES
    assert set(status["ring"]) == RING
    source = status["sources"][1]
    assert set(source) == {
        "source",
        "name",
        "open",
        "frames",
        "lost",
        "ring",
        "producer",
        "ended_by",
        "silent_s",
        "is_silent",
    }
    assert (set(source["frames"]), set(source["ring"])) == (FRAMES, RING)
    throughput = {"seconds", "frames_per_s", "bytes_per_s", "written_bytes", "stored_bytes"}
    assert set(status["throughput"]) == throughput
    assert set(status["disk"]) == {"free_bytes", "lasts_s", "io", "needs_bytes", "warning"}
    assert set(status["error"]) == {"code", "message", "remedy"}
    assert status["frame_shape"] == [2, 3]
    assert status["status_version"] == str(STATUS)


def test_the_daemons_fields_are_there() -> None:
    kept = KeptRingStatus("cam", ("/dev/shm/x",), 3, None, "it is damaged")
    status = DaemonStatus(writers=(WriterStatus(),), memory=MemoryStatus(), kept_rings=(kept,)).to_json()
    assert set(status) == DAEMON_FIELDS
    assert set(status["memory"]) == {"budget_bytes", "ring_bytes", "writer_bytes"}
    assert set(status["writers"][0]) == {"id", "pid", "ready", "jobs", "aside"}
    assert set(status["kept_rings"][0]) == {"name", "rings", "bytes", "dataset", "reason", "code"}


def test_a_status_is_read_as_it_was_written_also_with_fields_of_a_newer_omewd() -> None:
    with camera_of("t:inf:2,y:2,x:3") as it:
        it.publish(5)
        it.poll()
        it.take()
        it.finish()
        status = stream_status(it.stream, 5 + 10**9)
    value = json.loads(json.dumps(status.to_json()))
    assert StreamStatus.from_json(value) == status
    assert StreamStatus.from_json({**value, "new": 1, "frames": {**value["frames"], "seen": 3}}) == status
    daemon = DaemonStatus(version="0.1.0", pid=3, streams=(status,))
    assert DaemonStatus.from_json(json.loads(json.dumps(daemon.to_json()))) == daemon


@pytest.mark.parametrize("told", ["2.0", None, "new", 1.0])
def test_a_status_of_another_major_version_is_refused(told: object) -> None:
    with pytest.raises(OmewdError, match="version") as refusal:
        read_status(StreamStatus, {**StreamStatus().to_json(), "status_version": told})
    assert refusal.value.code == "other_version"
    assert "estart the daemon" in refusal.value.remedy


def test_a_status_of_another_minor_version_is_read() -> None:
    newer = {**StreamStatus(name="cam").to_json(), "status_version": f"{STATUS.major}.99", "new": True}
    assert read_status(StreamStatus, newer).name == "cam"


def test_a_status_of_another_shape_is_refused() -> None:
    with pytest.raises(OmewdError, match="FramesStatus") as refusal:
        read_status(StreamStatus, {**StreamStatus().to_json(), "frames": "frames"})
    assert refusal.value.code == "other_version"


def test_to_say_the_status_changes_nothing() -> None:
    with camera_of("t:inf:2,y:2,x:3") as it:
        it.publish(5)
        it.poll()
        first = stream_status(it.stream, 10**9)
        late = stream_status(it.stream, 10**13)
        assert stream_status(it.stream, 10**9) == first
        assert late.frames == first.frames


def test_a_source_is_silent_since_its_newest_frame() -> None:
    with camera_of("t:4:2,y:2,x:3") as it:
        it.poll()
        assert stream_status(it.stream, 10**9).sources[0].silent_s is None
        it.publish(3)
        it.poll()
        newest_ns = it.source.newest_frame_ns
        assert newest_ns is not None
        assert stream_status(it.stream, newest_ns + 10**9).sources[0].silent_s == 1.0
        assert stream_status(it.stream, newest_ns - 10**9).sources[0].silent_s == 0.0
        it.publish(1)
        it.poll()
        assert stream_status(it.stream, 10**13).sources[0].silent_s is None


def test_a_drive_lasts_as_long_as_all_streams_let_it() -> None:
    with camera_of("t:inf:2,y:2,x:3") as one, camera_of("t:inf:2,y:2,x:3") as other:
        for it in (one, other):
            it.publish(4)
            it.poll()
            it.take()
            it.finish()
            it.stream.drive.report(8, 1000, "O_DIRECT")
        now_ns = 5 + 10**9  # 10 bytes were stored in a second
        rates = rates_of_drives([one.stream, other.stream], now_ns)
        assert rates == {8: 20.0}
        lasts = [stream_status(one.stream, now_ns, rates=some).disk.lasts_s for some in (None, rates)]
        assert lasts == [100.0, 50.0]
        other.stream.drive.report(9, 1000)
        assert rates_of_drives([one.stream, other.stream], now_ns) == {8: 10.0, 9: 10.0}
        other.stream.settle()
        assert rates_of_drives([one.stream, other.stream], now_ns) == {8: 10.0}


def test_versions() -> None:
    assert Version.parse("12.3") == Version(12, 3)
    assert Version.parse(str(Version(2, 10))) == Version(2, 10)
    for text in ("1", "1.", "1.2.3", "-1.2", "1.2 ", 1.2, None, [1, 2], "².1"):
        assert Version.parse(text) is None
    assert Version(2, 0).reads(Version(2, 9))
    assert Version(2, 9).reads(Version(2, 0))
    assert not Version(2, 0).reads(Version(3, 0))
