"""What ``omewd benchmark`` compares with, and on which terms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.benchmarks import DIMS, columns, run

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("nothing_in_shared_memory")]


def test_the_peer_is_timed_beside_us(tmp_path: Path) -> None:
    backends = ["-b", "tensorstore", "-b", "acquire-zarr", "-b", "zarr-python", "-b", "zarrs-python"]
    out, _ = run(tmp_path, "-d", DIMS, *backends, "-i", "1", "--peer", "ome-writers", "--format", "json")
    found = columns(out)
    assert len(found) == 8
    for label, column in found.items():
        assert column["error"] is None, label
        assert column["fps"] > 0
    peer = found["ome-writers: acquire-zarr"]["samples"][0]
    assert peer["closed_s"] < peer["write_s"]  # its files are synced after it has closed
    assert set(peer["cpu_s"]) == {"process"}


def test_a_peer_is_timed_with_all_it_has_beside_a_backend_that_is_ours_alone(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-b", "direct", "-c", "blosc-lz4", "-i", "1", "-w", "0", "--peer", "ome-writers"]
    out, _ = run(tmp_path, *arguments, "--frame-metadata", "--format", "json")
    [benchmark] = json.loads(out)["benchmarks"]
    found = columns(out)
    assert {"direct", "ome-writers: tensorstore", "ome-writers: acquire-zarr"} <= found.keys()
    assert all(column["error"] is None for column in found.values())
    assert benchmark["frame_metadata"] is True
    for rates in (benchmark["memcpy"], benchmark["codecs"]["blosc-lz4"]):
        [sample] = rates["samples_gb_per_s"]
        assert [rates["one_core_gb_per_s"], rates["all_cores_gb_per_s"]] == sample
    for column in found.values():
        assert 0 < column["codec_fraction"] < 1
        assert column["nearest_ceiling"]["name"] in ("disk", "codec", "memcpy")
        assert column["close_s"] < column["write_median_s"] < column["total_s"]


def test_metadata_of_frames_is_in_the_dataset_and_refused_where_there_is_no_place_for_it(tmp_path: Path) -> None:
    arguments = ["-d", DIMS, "-b", "acquire-zarr", "-i", "1", "-w", "0", "--in-process", "--frame-metadata"]
    out, _ = run(tmp_path, *arguments, "--format", "json", status=1)
    ours, in_process = columns(out).values()
    without, _ = run(tmp_path, *arguments[:-2], "--format", "json")
    [plain] = columns(without).values()
    assert ours["samples"][0]["stored_bytes"] > plain["samples"][0]["stored_bytes"]
    assert "takes no metadata with a frame" in in_process["error"]["message"]


def test_a_peer_that_is_not_installed_is_told_before_anything_starts(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'ome_writers' else real(name, *a); "
        "from omewd.cli.main import main; main()"
    )
    arguments = ["benchmark", "-d", DIMS, "-b", "direct", "--peer", "ome-writers", "--output-dir", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "ome-writers is not installed. pip install ome-writers" in ended.stderr
    assert "Benchmarking" not in ended.stdout
