"""``omewd serve --check``: what is wrong with a configuration, all at once, with nothing started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omewd.daemon.checks import problems
from omewd.daemon.config import ServeConfig


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    return ServeConfig(
        tmp_path / "run/socket", (tmp_path,), tmp_path / "some/state", memory_bytes=1 << 20, writers=2, group="root"
    )


def test_nothing_is_wrong_with_folders_that_can_be_made(config: ServeConfig, tmp_path: Path) -> None:
    assert list(problems(config)) == []
    assert list(tmp_path.iterdir()) == []


CASES: dict[str, tuple[Callable[[ServeConfig], ServeConfig], str]] = {
    "memory": (lambda c: replace(c, memory_bytes=1 << 60), "but the machine has"),
    "shared memory": (lambda c: replace(c, memory_bytes=1 << 60), "but /dev/shm has"),
    "group": (lambda c: replace(c, group="nobody-at-all"), "there is no group 'nobody-at-all'"),
    "address": (lambda c: replace(c, socket=c.socket.parent / ("s" * 108)), "over 107 bytes"),
    "a file in the way": (lambda c: replace(c, state_dir=Path("/etc/passwd/state")), "/etc/passwd is not a folder"),
}


@pytest.mark.parametrize(("wrong", "says"), CASES.values(), ids=CASES.keys())
def test_what_is_wrong_is_said(config: ServeConfig, wrong: Callable[[ServeConfig], ServeConfig], says: str) -> None:
    found = [str(error) for error in problems(wrong(config))]
    assert any(says in text for text in found), found


def test_folders_that_this_user_may_not_write_into(
    config: ServeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    found = [str(error) for error in problems(config)]
    assert [text.split(" can't be used")[0].removeprefix("the ") for text in found] == [
        f"data root {tmp_path}",
        f"state directory {config.state_dir}",
        f"folder of the socket {config.socket.parent}",
    ]
    assert all(f"may not write into {tmp_path}" in text for text in found)


def test_the_command_says_everything_and_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "omewd", "serve", "--check", "--socket", str(tmp_path / "s"), "--data-root"]
    command += [str(tmp_path), "--state-dir", str(tmp_path / "state")]
    fine = subprocess.run([*command, "--memory", "1MiB"], capture_output=True, text=True, timeout=60, check=False)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.splitlines()[1] == f"data roots: {tmp_path}"
    wrong = subprocess.run(
        [*command, "--memory", "9999TiB", "--group", "nobody-at-all"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert [line.startswith("omewd: ") for line in wrong.stderr.splitlines()] == [True] * 3
    assert list(tmp_path.iterdir()) == []
