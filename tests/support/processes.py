"""Processes that a test starts, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import psutil


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own, such as a camera."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Look until a condition holds; as long as a loaded machine may take."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


@contextlib.contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """Processes that do nothing for the block, so that what happens in it happens before what they do."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait for processes that are not children of this one, such as the writers of a daemon that was killed."""
    pids = list(pids)
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
