"""``omewd benchmark`` as a user runs it: figures, failures, interruptions; and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.benchmarks import DIMS, columns, run, start
from tests.support.processes import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("nothing_in_shared_memory")]
BACKENDS = ["-b", "tensorstore", "-b", "acquire-zarr", "-b", "zarrs-python"]


def test_the_table_has_what_was_asked_for(tmp_path: Path) -> None:
    out, err = run(tmp_path, "-d", DIMS, *BACKENDS, "-i", "2")
    for line in ("Backends: tensorstore, acquire-zarr, zarrs-python", "Dtype: uint16", "Warm-ups: 1", "Iterations: 2"):
        assert line in out
    for line in ("Total shape: (8, 64, 64)", "Shard shape (chunks/shard): (4, 2, 2)", "MB per chunk: 0.002"):
        assert line in out
    for name in ("tensorstore", "acquire-zarr", "zarrs-python"):
        assert f"✓ {name} complete" in out
    for row in ("create (mean±std s)", "write (mean±std s)", "throughput (fps)", "bandwidth (GB/s)", "append p99"):
        assert row in out
    for row in ("connect (median s)", "close, part of write", "create, connect and write", "nearest ceiling"):
        assert row in out
    assert "memcpy: " in out
    for row in ("fraction of the disk", "CPU producer", "CPU daemon", "CPU writers", "peak memory", "files"):
        assert row in out
    assert not err


def test_the_figures_are_those_of_the_samples(tmp_path: Path) -> None:
    out, _ = run(tmp_path, "-d", DIMS, "-b", "tensorstore", "-i", "3", "--format", "json", "--in-process")
    total = 8 * 64 * 64 * 2
    ours, in_process = columns(out).values()
    for column in (ours, in_process):
        times = sorted(sample["write_s"] for sample in column["samples"])
        spread = column["write_s"]
        assert (spread["min"], spread["median"], spread["max"]) == pytest.approx(times)
        assert len(times) == 3
        assert column["fps"] == pytest.approx(8 / times[1])
        assert column["gb_per_s"] == pytest.approx(total / 1e9 / times[1])
        assert column["append_p50_ns"] <= column["append_p99_ns"] <= column["append_max_ns"]
        assert column["append_max_ns"] / 1e9 < times[-1]
    assert ours["files"] == 2 + 5  # two shards; three zarr.json, the ledger and its record
    assert in_process["files"] == 2 + 1
    assert ours["peak_bytes"] > 20_000_000
    sample = ours["samples"][0]
    assert set(sample["cpu_s"]) == {"producer", "daemon", "writers"}
    assert sum(w["p50_ns"] for w in sample["waits"].values()) / 1e9 < sample["write_s"] * 3


def test_every_combination_in_every_format(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-d", "t:6,y:64:32,x:64:32", "-b", "tensorstore", "-c", "none", "-c", "blosc-zstd"]
    arguments += ["--writers", "1", "--writers", "2", "-i", "1", "-w", "0", "--data", "camera", "--durability", "none"]
    picture = tmp_path / "out" / "p.png"
    picture.parent.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    out, err = run(work, *arguments, "--format", "csv", "--plot", str(picture))
    rows = out.splitlines()
    assert len(rows) == 1 + 2 * 4
    assert f"plot: {picture}" in err
    assert picture.read_bytes().startswith(b"\x89PNG")
    out, _ = run(work, *arguments[:8], "-i", "1", "-w", "0", "--format", "markdown")
    assert "| fraction of the disk |" in out
    assert "### `t:6,y:64:32,x:64:32`" in out


def test_several_cameras_are_timed_beside_one(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-b", "direct", "--cameras", "1", "--cameras", "2", "-i", "2"]
    out, err = run(tmp_path, *arguments)
    assert "Cameras at once: 1, 2" in out
    for label in ("direct ×1 camera", "direct ×2 cameras"):
        assert f"✓ {label} complete" in out
        assert label in out.partition("Test conditions")[2]
    assert not err
    out, _ = run(tmp_path, *arguments, "--format", "json")
    found = columns(out)
    one, two = found["direct ×1 camera"], found["direct ×2 cameras"]
    assert (one["cameras"], two["cameras"]) == (1, 2)
    assert two["files"] == 2 * one["files"]
    assert two["compression_ratio"] == pytest.approx(one["compression_ratio"], rel=0.05)
    for column in (one, two):
        assert [set(sample["cpu_s"]) for sample in column["samples"]] == [{"producer", "daemon", "writers"}] * 2
        assert column["fps"] == pytest.approx(column["cameras"] * 8 / column["write_median_s"])
        assert column["gb_per_s"] == pytest.approx(column["cameras"] * 8 * 64 * 64 * 2 / 1e9 / column["write_median_s"])


def test_several_cameras_are_paced_together(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-b", "direct", "-i", "1", "-w", "0", "--fps", "8", "--cameras", "3", "--format", "json"]
    [column] = columns(run(tmp_path, *arguments)[0]).values()
    assert 7 / 8 <= column["write_s"]["mean"] < 2 * 7 / 8  # one after the other they would take three times as long


def test_settings_come_from_a_file(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    work = tmp_path / "work"
    work.mkdir()
    dimensions = [
        {"name": "t", "count": 4},
        {"name": "y", "count": 64, "chunk_size": 32},
        {"name": "x", "count": 64, "chunk_size": 32},
    ]
    settings.write_text(json.dumps({"dimensions": dimensions, "dtype": "uint8", "compression": "zstd"}))
    out, _ = run(work, "-f", str(settings), "-b", "tensorstore", "-i", "1", "--format", "json")
    [benchmark] = json.loads(out)["benchmarks"]
    assert (benchmark["dims"], benchmark["dtype"]) == ("t:4,y:64:32,x:64:32", "uint8")
    assert benchmark["columns"][0]["compression"] == "zstd"
    for bad, says in (
        ({"dimension": []}, "'dimension'"),
        ({"dims": 5}, "dims can't be 5"),
        ({"compression": [{}], "dims": "y:8,x:8"}, "compression can't be"),
        ({"dimensions": [], "dtype": "uint8"}, "dimensions"),
        ({"dimensions": [{"name": "y", "count": -1}, {"name": "x", "count": 8}]}, "count"),
        ([], "no JSON object"),
    ):
        settings.write_text(json.dumps(bad))
        error = run(work, "-f", str(settings), status=2)[1]
        assert says in error
        assert len(error.splitlines()) == 1


def test_a_paced_camera_finds_room(tmp_path: Path) -> None:
    out, _ = run(tmp_path, "-d", DIMS, "-b", "tensorstore", "-i", "1", "--fps", "40", "--format", "json")
    [column] = columns(out).values()
    assert column["write_s"]["mean"] >= 7 / 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--dims is missing"),
        (["-d", "t:inf,y:8,x:8"], "unbounded"),
        (["-d", "t:4,y:8"], "the last two must be the frame's y and x"),
        (["-d", DIMS, "-b", "nosuch"], "there is no backend 'nosuch'"),
        (["-d", DIMS, "--recommend"], "--fps"),
        (["-d", DIMS, "-c", "gzip"], "compression"),
        (["-d", DIMS, "--dtype", "foo", "--recommend", "--fps", "10"], "dtype"),
        (["-d", "y:64", "--recommend", "--fps", "10"], "dimensions"),
        (["-d", DIMS, "--recommend", "--fps", "10", "--format", "csv"], "--format has no meaning"),
        (["-d", DIMS, "--recommend", "--fps", "10", "--cameras", "2"], "--cameras has no meaning"),
        (["-d", DIMS, "--memory", "foo"], "not a size"),
        (["-d", DIMS, "--plot", "/nowhere/p.png"], "/nowhere is not a folder"),
        (["-d", DIMS, "--plot", "p.foo"], "PNG"),
    ],
)
def test_what_can_not_be_timed_is_refused_before_anything_starts(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    out, err = run(tmp_path, *arguments, status=2)
    assert says in err
    assert len(err.splitlines()) == 1
    assert "Benchmarking" not in out


@pytest.mark.parametrize("how", [["--format", "json"], ["--format=json"]])
def test_errors_are_json_where_that_is_asked_for(tmp_path: Path, how: list[str]) -> None:
    for arguments, code in (
        (["-d", "t:inf,y:8,x:8"], "bad_spec"),
        (["-b", "x", "-d", DIMS], "usage"),
        (["-i", "0"], "usage"),
    ):
        out, err = run(tmp_path, *arguments, *how, status=2)
        assert (json.loads(out)["error"]["code"], err) == (code, "")


def test_within_a_time_limit_there_are_fewer_rounds_and_it_says_so(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-b", "direct", "-w", "0", "--fps", "8", "--time-limit", "3.5", "--format", "json"]
    out, err = run(tmp_path, *arguments)  # a round takes a second
    [benchmark] = json.loads(out)["benchmarks"]
    done = len(benchmark["columns"][0]["samples"])
    assert 1 <= done <= 3
    assert (benchmark["iterations"], benchmark["iterations_done"]) == (10, done)
    assert f"{done} of 10 iterations" in err
    assert "Iterations: 10, or fewer within 4 s" in err


def test_more_than_the_drive_holds_is_refused(tmp_path: Path) -> None:
    assert "are free in" in run(tmp_path, "-d", "t:100000000,y:2048,x:2048", status=1)[1]


def test_a_second_geometry_that_does_not_fit_is_refused_before_the_first_is_timed(tmp_path: Path) -> None:
    out, err = run(tmp_path, "-d", DIMS, "-d", "t:100000000,y:2048,x:2048", status=1)
    assert "are free in" in err
    assert "Benchmarking" not in out


def test_a_backend_that_fails_is_a_column_with_its_reason(tmp_path: Path) -> None:
    out, err = run(tmp_path, "-d", DIMS, *BACKENDS[:4], "-c", "zstd:-1", "-i", "1", status=1)
    assert "✓ tensorstore complete" in out
    assert "✗ acquire-zarr failed: " in out
    assert "it has no levels below 0" in out
    assert "ERROR" in out
    assert "1 of 2 columns failed" in err
    out, err = run(tmp_path, "-d", DIMS, *BACKENDS[:4], "-c", "zstd:-1", "-i", "1", "--format", "json", status=1)
    assert err.splitlines()[-1].startswith("omewd: 1 of 2 columns failed")
    good, bad = columns(out).values()  # standard output is this one document
    assert good["fps"] > 0
    assert bad["error"]["code"] == "backend_unusable"


def test_a_narrow_terminal_gets_several_tables(tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "omewd", "benchmark", "--output-dir", str(tmp_path), "-d", DIMS, "-i", "1"]
    command += [*BACKENDS, "--in-process"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    text = b""
    while True:
        try:
            text += os.read(master, 1 << 16)
        except OSError:
            break
    os.close(master)
    assert process.wait(60) == 0, text
    shown = text.decode()
    assert shown.count("bandwidth (GB/s)") > 1
    assert "…" not in shown.partition("Test conditions")[2]
    assert "in-process: zarrs-python" in shown.partition("Test conditions")[2]


# -- interrupted -----------------------------------------------------------------------------------

LONG = ["-d", "t:100000,y:64:32,x:64:32", "-b", "tensorstore", "-i", "50", "--fps", "500"]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def writers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in descendants(process) if "omewd.writer" in child.cmdline()]


def is_recording(folder: Path) -> bool:
    return any(folder.glob("*/*/*.ome.zarr/0/c/*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_says_so_and_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it runs in the background
    try:
        process = start(tmp_path, *LONG)
    finally:
        signal.signal(signal.SIGINT, ignored)
    wait_for(lambda: is_recording(tmp_path), 30)
    started = descendants(process)
    assert len(started) >= 4
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.strip() == "omewd: interrupted"
    assert not list(tmp_path.iterdir())
    assert not [child for child in started if child.is_running()]


def test_its_processes_end_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG)
    wait_for(lambda: is_recording(tmp_path), 30)
    started = descendants(process)
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not [child for child in started if child.is_running()], 30)


def test_a_killed_writer_voids_its_column(tmp_path: Path) -> None:
    process = start(tmp_path, "-d", "t:1500,y:64:32,x:64:32", "-b", "tensorstore", "-i", "1", "-w", "0", "--fps", "500")
    wait_for(lambda: is_recording(tmp_path), 30)
    os.kill(writers(process)[0].pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "✗ tensorstore failed: a writer process died" in out
    assert "1 of 1 columns failed" in err
    assert not list(tmp_path.iterdir())


def test_a_camera_that_dies_fails_its_column_and_the_others_are_ended(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG[:4], "-i", "1", "-w", "0", "--fps", "500", "--cameras", "2")
    wait_for(lambda: is_recording(tmp_path), 30)
    cameras = [child for child in descendants(process) if "omewd.bench.run.feeder" in child.cmdline()]
    assert len(cameras) == 2
    cameras[1].kill()
    out, err = process.communicate(timeout=60)  # the other one had minutes to go
    assert process.returncode == 1
    assert "✗ tensorstore failed: the camera process ended with SIGKILL" in out
    assert "1 of 1 columns failed" in err
    assert not list(tmp_path.iterdir())


def test_a_measuring_process_that_dies_is_told_and_the_columns_are_timed(tmp_path: Path) -> None:
    process = start(tmp_path, "-d", "t:1000,y:64:32,x:64:32", "-b", "direct", "-i", "2", "-w", "0", "--fps", "500")
    wait_for(lambda: is_recording(tmp_path), 30)  # the cores have been measured once, and will be after the next turn
    next(child for child in descendants(process) if "omewd.bench.ceilings.core" in child.cmdline()).kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "✓ direct complete" in out
    assert "could not be timed: the measuring process ended with SIGKILL" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.root("mounts a small drive")
def test_a_full_drive_is_told(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", drive], check=True)
    try:
        process = start(drive, "-d", "t:400,y:256,x:256", "-b", "tensorstore", "-i", "1", "-w", "0", "--fps", "400")
        wait_for(lambda: is_recording(drive), 30)
        (drive / "other").write_bytes(bytes(30_000_000))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the disk is full" in out
        assert "columns failed" in err
        assert [path.name for path in drive.iterdir()] == ["other"]
    finally:
        subprocess.run(["umount", drive], check=True)
