"""One daemon after another on the same folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.model.spec.spec import StreamSpec
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
OPTIONS = ("--writers", "2", "--memory", "512MiB")


class Daemons:
    """One daemon after another on the same folder; ``now`` is the one that lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = DaemonProcess(folder, *OPTIONS)

    def restart(self, **options: Any) -> DaemonProcess:
        self.now.kill()
        self.now = DaemonProcess(self.folder, *OPTIONS, **options)
        return self.now


def traced(*options: str) -> tuple[str, ...]:
    """Run the daemon under strace; -D makes the daemon our child, not the tracer."""
    return ("strace", "-D", "-f", "-qq", "-o", "/dev/null", *options)


def contents(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder: the bytes of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def abandon(producer: omewd.Producer) -> None:
    """Let go of what a producer holds whose daemon does not go on."""
    with pytest.raises(omewd.OmewdError):
        producer.close(timeout=0.05)


def append(producer: omewd.Producer, spec: StreamSpec, frames: range) -> None:
    for index in frames:
        assert producer.append(make_frame(index, spec.frame_shape, spec.dtype)) == index


def entries(daemons: Daemons) -> list[str]:
    """What is in the journal."""
    return sorted(path.name for path in (daemons.folder / "state" / "streams").iterdir())
