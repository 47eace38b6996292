"""What ``omewd status`` says about a machine that can't be used to the full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemons import DaemonProcess
from tests.support.places import REPOSITORY

# The command finds itself on another machine.
_ELSEWHERE = """
import platform
import omewd.store.filesystem
platform.release = lambda: {release!r}
omewd.store.filesystem.filesystem_of = lambda place: "ext4"
"""


def test_an_old_kernel_with_ext4_is_told_and_a_new_one_is_not(
    omewd_daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{site}:{REPOSITORY}")
    shown = {}
    for release in ("6.1.0-44-amd64", "6.12.0-1-amd64"):
        (site / "sitecustomize.py").write_text(_ELSEWHERE.format(release=release))
        shown[release] = omewd_daemon.omewd("status").stdout
    text = f"{omewd_daemon.data} is on ext4, and with kernel 6.1.0-44-amd64 "
    assert text in shown["6.1.0-44-amd64"].replace("\n  ", " ")
    assert "ext4" not in shown["6.12.0-1-amd64"]
