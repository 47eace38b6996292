"""What ``omewd status`` shows at the widths that terminals have: whole numbers, whatever they are."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from omewd.cli.show.recent_rates import RecentRates
from omewd.cli.show.status_lines import ENDED_SHOWN, Line, render
from omewd.cli.show.units import byte_rate, duration, frame_rate, long_duration, volume
from omewd.protocol.status import DaemonStatus, StreamStatus

WIDTHS = (40, 60, 80, 100, 160, 200)
LONG = "camera-left-of-the-dichroic-mirror-of-the-second-microscope-0001"
assert len(LONG) == 64


def counts(received: int, declared: int | None, *, gaps: int = 0, in_flight: int = 0) -> dict[str, Any]:
    return {
        "received": received,
        "declared": declared,
        "written": received - gaps - in_flight,
        "gaps": gaps,
        "in_flight": in_flight,
        "durable": received - in_flight,
    }


def stream(number: int, name: str, frames: dict[str, Any], state: str = "ACTIVE", **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": number,
        "name": name,
        "state": state,
        "settled": state in ("DONE", "FAILED"),
        "path": f"/data/{name}.ome.zarr",
        "frame_bytes": 8192,
        "backend": "direct",
        "backend_reason": "",
        "durability": "fsync",
        "frames": frames,
        "kept_in_ring": False,
        "ring": {"used": 12, "slots": 64},
        "sources": [],
        "throughput": {"frames_per_s": 10.0, "bytes_per_s": 81920},
        "paused": None,
        "disk": {"free_bytes": 50_000_000_000, "lasts_s": None, "io": "O_DIRECT"},
        "waits": {},
        "recent_waits": {},
        "ended_by": "",
        "error": None,
    }
    return {**known, **fields}


def source(name: str, **fields: Any) -> dict[str, Any]:
    known = {"name": name, "ended_by": "", "producer": 4_194_303, "ring": {"used": 5, "slots": 64}}
    return {**known, "frames": counts(1_000_000, 5_000_000, gaps=3), **fields}


FAST = stream(1, "fast", counts(7_500_123, 10_000_000, gaps=12, in_flight=4096))
FAST["throughput"] = {"frames_per_s": 12_345.6, "bytes_per_s": 4_321_000_000}
FAST["disk"] = {"free_bytes": 50_000_000_000, "lasts_s": 4000.0, "io": "O_DIRECT"}
FAST["recent_waits"] = {"ring": {"p50_ns": 1_500_000, "p99_ns": 9_000_000, "max_ns": 12_000_000}}
SMALL = stream(2, "small", counts(100, 1000))
HUGE = stream(3, "huge", counts(1_000_000_000, 10_000_000_000, gaps=123_456_789, in_flight=100_000_000))
HUGE["ring"] = {"used": 100_000, "slots": 100_000}
ENDLESS = stream(4, "endless", counts(123_456, None))
NAMED = stream(5, LONG, counts(5, 10))
PAUSED = stream(6, "paused", counts(50, 100), paused={"message": "the disk is full", "remedy": "Free some space"})
FAILED = stream(7, "broken", counts(366, 1000), "FAILED", error={"message": "`the disk` is gone"}, kept_in_ring=True)
SEVERAL = stream(8, "several", counts(2_000_000, 10_000_000, gaps=6))
SEVERAL["sources"] = [source("DAPI"), source("通道一" * 8), source("left", producer=None), source("y", ended_by="lost")]
NO_FSYNC = stream(9, "risky", {**counts(77, 100), "durable": 0}, durability="none")
ENDED = [stream(200 - n, f"old{n}", counts(4321, 4321), "DONE", ended_by="all frames received") for n in range(20)]
EVERY = [FAST, SMALL, HUGE, ENDLESS, NAMED, PAUSED, FAILED, SEVERAL, NO_FSYNC]


def status(*streams: dict[str, Any], **fields: Any) -> DaemonStatus:
    memory = {"ring_bytes": 100 << 20, "writer_bytes": 20 << 20, "budget_bytes": 4 << 30}
    known: dict[str, Any] = {"version": "1.0", "pid": 4711, "uptime_s": 93_784.0, "stopping": False, "memory": memory}
    known |= {"writers": [{"ready": True}], "streams": list(streams), "streams_not_shown": 0}
    return DaemonStatus.from_json({**known, **fields})


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def numbers(of: dict[str, Any], width: int) -> list[str]:
    """What must be there; bytes a second have a column where there is room for it."""
    frames, ring = of["frames"], of["ring"]
    declared = f"/{frames['declared']}" if frames["declared"] is not None else ""
    return [
        f"{frames['received']}{declared}",
        f"{frames['gaps']}",
        f"{ring['used']}/{ring['slots']}",
        f"{frames['received'] - frames['durable']}",
        *([byte_rate(of["throughput"]["bytes_per_s"])] if width >= 160 else []),
        frame_rate(of["throughput"]["frames_per_s"]).removesuffix(" fps"),
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("streams", [[one] for one in EVERY] + [EVERY, ENDED[:1]], ids=lambda s: s[0]["name"][:8])
def test_no_number_is_cut_at_any_width(width: int, streams: list[dict[str, Any]]) -> None:
    lines = texts(render(status(*streams), width=width))
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for line in lines:
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="crop")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert [line.rstrip() for line in shown.splitlines()] == lines, "something did not fit"
    for of in streams:
        for number in numbers(of, width) if of["durability"] == "fsync" else ["77/100", "12/64"]:
            assert re.search(rf"(^|[\s,]){re.escape(number)}($|[\s,])", shown, re.MULTILINE), (number, shown)
        for one in of["sources"]:
            assert f"{one['frames']['received']}/{one['frames']['declared']}" in shown
    for word in re.findall(r"\S*…\S*", shown):
        assert LONG.startswith(word.split("…")[0]) or "通" in word, word


@pytest.mark.parametrize("width", [80, 100, 160])
def test_streams_as_they_usually_are_take_a_line_each(width: int) -> None:
    usual = [SMALL, ENDLESS, NAMED, NO_FSYNC]
    lines = texts(render(status(*usual), width=width))
    header = next(line for line in lines if line.startswith("stream"))
    columns = header.split()
    assert {"stream", "state", "received", "gaps", "lag", "ring", "rate", "fps"} <= set(columns)
    assert ("written" in columns) is (width == 160)
    rows = lines[lines.index(header) + 1 :]
    assert len(rows) == len(usual)
    assert [row.split()[1] for row in rows] == ["ACTIVE"] * 4
    assert all(len(row) <= width for row in rows)
    if width == 160:
        assert LONG in rows[2]
    else:
        name = rows[2].split()[0]
        assert "…" in name
        assert name.endswith("0001")  # its end tells it from the next
        assert name.startswith("camera")


def test_columns_vanish_before_a_name_is_hardly_to_be_read() -> None:
    lines = texts(render(status(NAMED), width=80))
    assert "written" not in lines[-2]
    assert len(lines[-1].split()[0]) >= 24


def test_what_a_small_camera_gives_is_no_zero() -> None:
    shown = "\n".join(texts(render(status(SMALL), width=80)))
    assert re.search(r"81.9 kB/s +10$", shown, re.MULTILINE)


def test_without_fsync_no_frame_is_said_to_be_durable_or_late() -> None:
    row = texts(render(status(NO_FSYNC), width=160))[2]
    assert row.split().count("–") == 2


def test_the_latest_of_many_ended_streams_are_shown() -> None:
    shown = texts(render(status(SMALL, *ENDED), width=100))
    assert [line.split()[0] for line in shown if line.startswith("old")] == [f"old{n}" for n in range(ENDED_SHOWN)]
    assert shown[-1] == "not shown: 15 that ended earlier (omewd status --all)"
    everything = texts(render(status(SMALL, *ENDED), width=100, every=True))
    assert sum(line.startswith("old") for line in everything) == 20
    assert "not shown" not in "\n".join(everything)


def test_a_failed_stream_that_keeps_frames_is_shown_however_many_have_ended() -> None:
    shown = "\n".join(texts(render(status(*ENDED, FAILED), width=100)))
    assert re.search(r"^broken +FAILED", shown, re.MULTILINE)
    assert "broken: the disk is gone" in shown
    assert "omewd resume-stream" in shown


def test_a_ring_that_was_not_taken_over_is_told_with_what_to_do() -> None:
    ring = {"name": "cam", "rings": ["/dev/shm/omewd-1-0-cam"], "bytes": 3 << 20, "reason": "it is of version 3."}
    said = "".join("".join(texts(render(status(kept_rings=[{**ring, "dataset": None}]), width=80))).split())
    for part in (
        "cam: its ring of 3.0 MiB (/dev/shm/omewd-1-0-cam) is kept",
        "it is of version 3. omewd resume-stream cam tries again, stop-stream discards it",
    ):
        assert part.replace(" ", "") in said


def test_a_writer_that_is_aside_is_not_counted() -> None:
    writers = [{"ready": True, "aside": False}, {"ready": False, "aside": True}]
    assert "1 of 1 writers ready" in "\n".join(texts(render(status(writers=writers), width=160)))


def test_a_paused_stream_says_so_in_its_line() -> None:
    lines = render(status(PAUSED), width=80)
    assert [line.style for line in lines if re.match(r"paused +PAUSED", line.text)] == ["yellow"]
    assert "paused waits: the disk is full. Free some space" in texts(lines)


@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 16, 24, 40])
def test_no_more_lines_than_there_is_room_for(height: int) -> None:
    lines = texts(render(status(*EVERY, *ENDED), width=80, height=height))
    assert 0 < len(lines) <= height
    if height < 40:
        assert not any(line.startswith("old") for line in lines)
    many = [stream(n, f"cam{n}", counts(n, 100)) for n in range(30)]
    lines = texts(render(status(*many), width=100, height=height))
    assert len(lines) <= height
    if 5 <= height < 32:
        shown = sum(line.startswith("cam") for line in lines)
        assert shown == height - 3
        assert f"and {30 - shown} more; give a stream's name to see it" in lines


def test_in_little_room_troubles_are_told_before_what_is_good_to_know() -> None:
    full = texts(render(status(FAST, PAUSED, *ENDED), width=100))
    tight = texts(render(status(FAST, PAUSED, *ENDED), width=100, height=len(full) - ENDED_SHOWN - 1))
    assert "paused waits: the disk is full. Free some space" in tight
    assert "fast: frames wait longest in ring, 1.5 ms" in full
    assert not any("wait longest" in line for line in tight)


@pytest.mark.parametrize("width", WIDTHS)
def test_one_stream_has_its_path_and_where_frames_waited(width: int) -> None:
    lines = texts(render(StreamStatus.from_json({**FAST, "backend_reason": "no O_DIRECT on this drive"}), width=width))
    assert "/data/fast.ome.zarr (direct, O_DIRECT, open)" in " ".join(line.strip() for line in lines)
    assert all(len(line) <= width for line in lines)
    assert "where frames waited in the last seconds:" in lines
    assert lines[-1].split() == ["ring", "1.5", "ms", "9", "ms", "12", "ms"]


def test_a_disk_that_is_full_soon_is_told() -> None:
    later = {**FAST, "disk": {**FAST["disk"], "lasts_s": 900_000.0}}
    told = "fast: 50.0 GB free, full in 66.7 minutes at this rate"
    assert told in texts(render(status(FAST), width=100))
    assert not any("at this rate" in line for line in texts(render(status(later), width=100)))
    assert "fast: 50.0 GB free, full in 10.4 days at this rate" in texts(
        render(StreamStatus.from_json(later), width=100)
    )


def test_a_rest_that_does_not_fit_is_told() -> None:
    short = {**FAST, "disk": {**FAST["disk"], "needs_bytes": 60_000_000_000}}
    told = "fast: 50.0 GB free, full in 66.7 minutes at this rate, the rest takes 60.0 GB"
    assert told in texts(render(status(short), width=100))
    compressed = {**short, "compression": "zstd"}
    assert told.replace("60.0", "up to 60.0") in texts(render(status(compressed), width=100))
    fits = {**FAST, "disk": {**FAST["disk"], "needs_bytes": 40_000_000_000}}
    assert not any("free" in line for line in texts(render(status(fits), width=100)))
    assert "the rest takes 40.0 GB" in " ".join(texts(render(StreamStatus.from_json(fits), width=100)))


def test_no_streams() -> None:
    assert texts(render(status(), width=80))[-1] == "no streams"


def test_recent_rates_are_shown_of_what_goes_on_only() -> None:
    shown = "\n".join(texts(render(status(SMALL, *ENDED[:1]), width=100, rates={2: (3.0, 24576.0), 200: (9.0, 9.0)})))
    assert re.search(r"^small .* 24.6 kB/s +3.0$", shown, re.MULTILINE)
    assert re.search(r"^old0 .* 81.9 kB/s +10$", shown, re.MULTILINE)


# -- rates -----------------------------------------------------------------------------------------


def noted(rates: RecentRates, received: int, now_s: float, average: float, gaps: int = 0) -> tuple[float, float] | None:
    of = stream(1, "cam", counts(received, None, gaps=gaps))
    of["throughput"] = {"frames_per_s": average, "bytes_per_s": 0}
    return rates.note(StreamStatus.from_json(of), now_s)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rates = RecentRates()
    assert noted(rates, 1000, 100.0, 50.0) is None
    assert noted(rates, 1000, 100.5, 50.0) is None
    for step in range(1, 41):
        recent = noted(rates, 1000 + 20 * step, 100.5 + step / 2, 50.0)
    assert recent == pytest.approx((40.0, 40.0 * 8192))
    for step in range(1, 13):
        recent = noted(rates, 1800, 120.5 + step / 2, 50.0)
    assert recent == (0.0, 0.0)  # the camera has stopped


def test_frames_of_a_slow_camera_are_counted_for_longer() -> None:
    rates = RecentRates()
    for step in range(60):
        recent = noted(rates, step // 8, step / 2, 0.25)  # one every four seconds
    assert recent is not None
    assert 0.2 <= recent[0] <= 0.3


def test_frames_that_were_dropped_are_no_throughput() -> None:
    rates = RecentRates()
    noted(rates, 0, 0.0, 10.0)
    assert noted(rates, 100, 2.0, 10.0, gaps=60) == pytest.approx((20.0, 20.0 * 8192))


@pytest.mark.parametrize(
    ("bytes_per_s", "shown"),
    [
        (0, "0 B/s"),
        (999, "999 B/s"),
        (999.9, "1.00 kB/s"),
        (81_920, "81.9 kB/s"),
        (999_600, "1.00 MB/s"),
        (9_994_000, "9.99 MB/s"),
        (9_996_000, "10.0 MB/s"),
        (99_960_000, "100 MB/s"),
        (1_234_000_000, "1.23 GB/s"),
        (2e12, "2.00 TB/s"),
    ],
)
def test_rates_have_three_digits_and_a_fitting_unit(bytes_per_s: float, shown: str) -> None:
    assert byte_rate(bytes_per_s) == shown
    assert volume(bytes_per_s) == shown.removesuffix("/s")


@pytest.mark.parametrize(
    ("fps", "shown"),
    [
        (0, "0.0 fps"),
        (0.00001, "<0.001 fps"),
        (0.0333, "0.033 fps"),
        (0.94, "0.94 fps"),
        (0.96, "1.0 fps"),
        (9.94, "9.9 fps"),
        (9.96, "10 fps"),
        (12_345.6, "12346 fps"),
    ],
)
def test_frames_a_second_have_a_decimal_below_ten(fps: float, shown: str) -> None:
    assert frame_rate(fps) == shown


def test_durations() -> None:
    assert [duration(ns) for ns in (0, 5, 1500, 2_500_000, 250e9)] == ["0", "5 ns", "1.5 µs", "2.5 ms", "250 s"]
    assert [long_duration(s) for s in (5, 150, 9000, 260_000)] == ["5 seconds", "2.5 minutes", "2.5 hours", "3.0 days"]


def test_advice_comes_after_the_daemon_and_goes_first_where_space_is_short() -> None:
    advice = ["/data is on ext4, use XFS"]
    told = texts(render(status(FAST), width=200, advice=advice))
    assert told[1] == advice[0]
    assert told[:1] + told[2:] == texts(render(status(FAST), width=200))
    short = texts(render(status(FAST), width=200, height=3, advice=advice))
    assert not any("XFS" in line for line in short)
    assert any("fast" in line for line in short)
