"""The start of every child of the daemon: its command line, and the precautions that come first."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from omewd.process.lifeline import tie_to


@dataclass(frozen=True)
class Given:
    """The arguments of a child. ``channel``: the socket to the daemon. ``threads``: the cores that it may use.

    ``scratch``: the path of a folder in memory, which the child creates if it needs one.
    """

    channel: socket.socket
    threads: int
    scratch: Path


def arguments_for(channel: int, daemon: int, threads: int, scratch: Path) -> list[str]:
    """The arguments that :func:`begin` reads."""
    given = {"channel": channel, "daemon": daemon, "threads": threads, "scratch": scratch}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def begin(module: str) -> Given:
    """Read a child's command line, and tie it to its daemon. Call this before slow imports."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the daemon")
    parser.add_argument("--daemon", type=int, required=True, help="process id of the daemon")
    parser.add_argument("--threads", type=int, required=True, help="cores this process may use")
    parser.add_argument("--scratch", type=Path, required=True, help="folder in memory for temporary files")
    arguments = parser.parse_args()

    # A child must not outlive its daemon, because the next daemon runs its jobs again.
    tie_to(arguments.daemon, signal.SIGKILL)
    # Ctrl-C in the daemon's terminal reaches the whole group, but only the daemon ends children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Cameras go first when they wake up with a frame: with 60 frames of 8 MiB a second on two cores, append p99 falls
    # from 1.5 to 0.9 ms.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return Given(socket.socket(fileno=arguments.channel), arguments.threads, arguments.scratch)
