"""``omewd profile`` as a user runs it: tables of every process, pictures, and a look at a running daemon."""

from __future__ import annotations

import json
import pstats
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from omewd.model.waits import STAGES
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec

DIMS = "t:12:1:4,y:64:32:2,x:64:32:2"

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("nothing_in_shared_memory")]
needs_spy = pytest.mark.skipif(
    shutil.which("py-spy") is None and not Path(sys.executable).with_name("py-spy").exists(),
    reason="py-spy is not installed",
)


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "omewd", "profile", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if not status else done.stderr


def rows(text: str, role: str) -> list[tuple[str, float, float, str]]:
    """The lines of a process' table: calls, time, cumulative, location."""
    table = re.split(rf"^{role}.*: top", text, flags=re.MULTILINE)[1].split("└")[0]
    found = re.findall(r"│ +(\S+) │ +([0-9.]+) s │ +([0-9.]+) s │ (.*?) +│", table)
    return [(calls, float(own), float(cumulative), location) for calls, own, cumulative, location in found]


def test_every_process_has_its_table(tmp_path: Path) -> None:
    text = run(tmp_path, "-d", DIMS, "-b", "tensorstore")
    assert "Total shape: (12, 64, 64)" in text
    assert "run: create" in text
    assert re.search(r"CPU: .*daemon .*writers .*producer", text)
    for role, function in (("producer", "append"), ("daemon", "_step"), ("writer", "write_open")):
        table = rows(text, role)
        assert 0 < len(table) <= 20
        assert [row[1] for row in table] == sorted((row[1] for row in table), reverse=True)
        assert any(function in row[3] for row in rows(run_top(tmp_path), role)), function
    for stage in STAGES.keys() - {"halve"}:  # there is one resolution
        assert re.search(rf"^{stage} ", text, re.MULTILINE)
    assert not list(tmp_path.iterdir())


_all: dict[Path, str] = {}


def run_top(folder: Path) -> str:
    """A profile with all functions in its tables, sorted by calls."""
    if folder not in _all:
        _all[folder] = run(folder, "-d", DIMS, "-b", "tensorstore", "--top", "1000", "--sort", "calls")
    return _all[folder]


def test_threads_that_write_files_are_in_the_profile(tmp_path: Path) -> None:
    """Unsharded, files are written by a pool of threads; the profiler sees them too, and every call."""
    frames, files = 12, 12 * 4
    text = run(tmp_path, "-d", f"t:{frames},y:64:32,x:64:32", "-b", "tensorstore", "--top", "1000", "-i", "2")
    calls = {row[3].split(":")[0] + row[3][row[3].find("(") :]: row[0] for row in rows(text, "writer")}
    assert calls["omewd/store/sinks/publish.py(_write)"] == str(2 * files)
    appended = {row[3].rpartition("(")[2]: row[0] for row in rows(text, "producer")}
    assert appended["append)"] == str(2 * frames)


def test_profiles_can_be_kept(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    text = run(work, "-d", DIMS, "--sort", "cumulative", "--output", str(tmp_path / "stats.prof"))
    for role in ("producer", "daemon", "writer"):
        path = tmp_path / f"stats.{role}.prof"
        assert str(path) in text
        assert pstats.Stats(str(path)).total_calls > 0  # type: ignore[attr-defined]
        cumulative = [row[2] for row in rows(text, role)]
        assert cumulative == sorted(cumulative, reverse=True)


@needs_spy
def test_pictures_name_every_process(tmp_path: Path) -> None:
    svg, document = tmp_path / "out" / "f.svg", tmp_path / "out" / "s.json"
    svg.parent.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    raw = tmp_path / "out" / "raw.txt"
    arguments = ["-d", "t:64:1:4,y:512:256:2,x:512:256:2", "-c", "blosc-zstd", "--seconds", "2", "--top-n", "3"]
    text = run(work, *arguments, "--flamegraph", str(svg), "--speedscope", str(document), "--raw", str(raw))
    assert "top 3 functions" in text
    stacks = [line.rpartition(" ") for line in raw.read_text().splitlines()]
    assert all(count.isdigit() for _, _, count in stacks)
    assert any(re.match(r"omewd profile \d+;(.*;)?writer \d+;", stack) for stack, _, _ in stacks)
    assert f"flamegraph: {svg}" in text
    titles = [element.text or "" for element in ElementTree.parse(svg).iter() if element.tag.endswith("title")]
    for role in ("writer", "daemon", "omewd profile"):
        assert any(re.match(rf"{role} \d+ \(", title) for title in titles), role
    assert not any("omewd.writer --channel" in title for title in titles)
    assert any("worker.py" in title for title in titles)
    names = [profile["name"] for profile in json.loads(document.read_text())["profiles"]]
    assert any(name.startswith("writer ") for name in names)
    assert not list(work.iterdir())


@needs_spy
def test_a_running_stream_is_looked_at_and_not_disturbed(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    spec = make_spec("cam", "t:1000:1:4,y:128:64:2,x:128:64:2", compression="blosc-zstd")
    omewd_daemon.client.start_stream(spec)
    looked = threading.Event()
    frames = 0

    def record() -> None:
        nonlocal frames
        with omewd_daemon.connect("cam") as producer:
            while frames < 1000 and not (looked.is_set() and frames >= 100):
                producer.append(make_frame(frames, (128, 128), "uint16"))
                frames += 1
                time.sleep(0.005)

    camera = threading.Thread(target=record)
    camera.start()
    try:
        options = ["--stream", "cam", "--socket", str(omewd_daemon.socket), "--seconds", "1.5"]
        text = run(tmp_path, *options)
        picture = tmp_path / "look.svg"
        run(tmp_path, *options, "--flamegraph", str(picture))
    finally:
        looked.set()
        camera.join(60)
    assert re.search(r"^[1-9]\d* frames arrived meanwhile", text, re.MULTILINE)
    assert re.search(r"^(writer|daemon) \d+: top 20 functions, by the", text, re.MULTILINE)
    assert re.search(r"^dispatch ", text, re.MULTILINE)
    assert "writer" in picture.read_text()
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, frames)
    assert "has ended" in run(tmp_path, *options, status=1)


def test_without_py_spy_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import omewd.bench.profile, shutil, sys; sys.executable = '/nowhere/python'; shutil.which = lambda _: None"
    code += "; from omewd.cli.main import main; main(['profile', '-d', 't:2,y:8,x:8', '--flamegraph', 'f.svg'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "pip install 'omewd[profile]'" in done.stderr
    assert not list(tmp_path.iterdir())
