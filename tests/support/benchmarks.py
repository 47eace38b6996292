"""``omewd benchmark`` in a process of its own, and its columns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DIMS = "t:8:1:4,y:64:32:2,x:64:32:2"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "omewd", "benchmark", "--output-dir", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run it to its end: (standard output, standard error); nothing may be left in the folder."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=110)
    assert process.returncode == status, (out, err)
    assert not list(folder.iterdir()), "files are left"
    return out, err


def columns(text: str) -> dict[str, Any]:
    [benchmark] = json.loads(text)["benchmarks"]
    return {column["label"]: column for column in benchmark["columns"]}
