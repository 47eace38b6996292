"""The pages that are to be followed from top to bottom, as a reader would: block by block, in one folder."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import omewd
from omewd.daemon.state.journal import instance_name
from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_zarr
from tests.support.pages import PAGES, Block, blocks, commands_in_text
from tests.support.places import DOCS, README
from tests.support.processes import wait_for
from tests.support.shared_memory import started_instances

TUTORIAL = DOCS / "tutorial.md"
_SKIPPED = ("sh packaging/venv.sh", "pip install", "omewd benchmark")  # see tests/unit/test_examples.py


class Reader:
    """Types what a page says, in terminals that share a folder with an environment ``.venv``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text(f"export PATH='{programs}':$PATH\n")
        self._add(programs / "omewd", f'exec "{sys.executable}" -m omewd "$@"')
        self._add(programs / "python", f'exec "{sys.executable}" "$@"')
        places = {"OMEWD_SOCKET": str(folder / "omewd.sock"), "OMEWD_SERVE_STATE_DIR": str(folder / "state")}
        self._environment = {**os.environ, **places, "OMEWD_SERVE_WRITERS": "1", "OMEWD_SERVE_MEMORY": "1GiB"}
        self.client = omewd.Client(folder / "omewd.sock")
        started_instances.add(instance_name(folder / "state"))

    @staticmethod
    def _add(program: Path, command: str) -> None:
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)

    def shell(self, text: str) -> subprocess.Popen[str]:
        """A terminal in which this is typed."""
        return subprocess.Popen(
            ["bash", "-ec", f". .venv/bin/activate\n{text}"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextlib.contextmanager
    def daemon(self, text: str) -> Iterator[None]:
        """A terminal in which the daemon runs, until Ctrl-C."""
        daemon = self.shell(text.replace("omewd serve", "exec omewd serve"))
        try:
            wait_for(self._is_up)
            yield
            daemon.send_signal(signal.SIGINT)
            output, _ = daemon.communicate(timeout=60)
            assert daemon.returncode == 0, output
        finally:
            daemon.kill()
            daemon.communicate()

    def _is_up(self) -> bool:
        try:
            return bool(self.client.status())
        except omewd.OmewdError:
            return False

    def saves(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def does(self, block: Block) -> str:
        """What a block prints; it must not fail, unless it ends itself."""
        if block.language == "python":
            self.saves("program.py", block.text)
        terminal = self.shell("python program.py" if block.language == "python" else block.text)
        output, _ = terminal.communicate(timeout=60)
        assert terminal.returncode == (1 if "os._exit(1)" in block.text else 0), output
        return output


def follow(page: Path, reader: Reader) -> dict[str, str]:
    """Do all that a page says; returns what each block printed, by its name or its first command."""
    printed = {}
    with contextlib.ExitStack() as terminals:
        for block in blocks(page, "sh", "python"):
            if block.text.startswith(_SKIPPED):
                continue
            if block.name == "tutorial-camera":
                reader.saves("camera.py", block.text)
            elif "omewd serve" in block.text:
                terminals.enter_context(reader.daemon(block.text))
            else:
                printed[block.name or block.commands[0]] = reader.does(block)
    return printed


def test_the_readme(tmp_path: Path) -> None:
    printed = follow(README, Reader(tmp_path))
    assert "cam0" in printed["omewd status"]
    assert np.load(tmp_path / "a.npy").tolist() == np.full((512, 512), 99).tolist()
    assert verify(tmp_path / "cam0.ome.zarr").problems == []


def test_the_tutorial(tmp_path: Path) -> None:
    printed = follow(TUTORIAL, Reader(tmp_path))
    assert printed["python camera.py"] == "on disk\n"
    assert "(60, 512, 512)" in printed["tutorial-read"]
    assert len(read_zarr(tmp_path / "again.ome.zarr")) == 33
    for name in ("cells", "again"):
        assert verify(tmp_path / f"{name}.ome.zarr").problems == []


STREAMS = [
    command
    for page in PAGES
    for command in [*(c for block in blocks(page, "sh") for c in block.commands), *commands_in_text(page)]
    if command.startswith("omewd start-stream ") and not {"DIMS", "--settings-file"} & set(command.split())
]


def test_streams_can_be_opened_as_they_are_written(omewd_daemon: DaemonProcess) -> None:
    assert len({*STREAMS}) > 5
    for command in sorted({*STREAMS}):
        options = [word for word in shlex.split(command)[1:] if word != "--wait"]
        opened = omewd_daemon.omewd(*options, "--overwrite")
        assert opened.returncode == 0, f"{command}: {opened.stderr}"
        stream = omewd_daemon.client.daemon_status().streams[0]
        omewd_daemon.client.stop_stream(stream.name)
        omewd_daemon.client.wait(stream.name, timeout=60)
