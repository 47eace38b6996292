"""``omewd benchmark --recommend``: the settings that it finds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import omewd
from tests.support.benchmarks import run

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("nothing_in_shared_memory")]


def test_a_recommendation_works_when_followed(tmp_path: Path) -> None:
    arguments = ["-d", "t:200,y:256,x:256", "-b", "tensorstore", "--recommend", "--fps", "20", "--time-limit", "8"]
    started = time.monotonic()
    out, _ = run(tmp_path, *arguments)
    assert time.monotonic() - started < 40
    line = out.splitlines()[-1].split()
    assert line[:3] == ["omewd", "start-stream", "--dims"]
    dims = omewd.parse_dims(line[3])
    assert [d.count for d in dims] == [200, 256, 256]
    assert "times the camera's rate" in out
    options = dict(zip(line[4::2], line[5::2], strict=True))
    fields = {key.removeprefix("--"): value for key, value in options.items()}
    omewd.StreamSpec.parse({"name": "x", "dimensions": [d.model_dump() for d in dims], **fields})


def test_a_camera_too_fast_for_everything_is_told(tmp_path: Path) -> None:
    arguments = ["-d", "t:2000,y:256,x:256", "-b", "tensorstore", "-c", "none", "--recommend", "--fps", "10000000"]
    assert "no settings keep up" in run(tmp_path, *arguments, "--time-limit", "2", status=1)[1]
