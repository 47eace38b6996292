"""What is swept from the folder of a copy: parts of files, and never those that another machine is writing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from omewd.copier.access.store import Target
from omewd.model.address import Address


def make(folder: Path, name: str, age_s: float) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_only_what_is_left_of_own_files_and_silent_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    target = Target(Address.parse(f"file://{folder}"), create=True)
    names = {"0/c/0#1": 0, "0/c/1#23": 600, "0/c/2": 600, "0/c/#x": 600, "1/c/0#1": 600}
    files = {name: make(folder, name, age) for name, age in names.items()}
    target.sweep(lambda path: path.startswith("0/"), 300)
    assert {name for name, path in files.items() if not path.exists()} == {"0/c/1#23"}
    target.sweep(lambda path: path.startswith("0/"))
    assert {name for name, path in files.items() if not path.exists()} == {"0/c/1#23", "0/c/0#1"}
