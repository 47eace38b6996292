"""How every child of the daemon starts: what it is given on its command line, and what it must see to first."""

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
    """What a child gets. ``channel``: the socket to the daemon; ``threads``: cores it may use.

    ``scratch``: the name of a folder in memory, which the child makes if it needs one.
    """

    channel: socket.socket
    threads: int
    scratch: Path


def arguments_for(channel: int, daemon: int, threads: int, scratch: Path) -> list[str]:
    """The command line that :func:`begin` reads."""
    given = {"channel": channel, "daemon": daemon, "threads": threads, "scratch": scratch}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def begin(module: str) -> Given:
    """Read the command line of a child, and tie it to its daemon. To be called before anything heavy is imported."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the daemon")
    parser.add_argument("--daemon", type=int, required=True, help="process id of the daemon")
    parser.add_argument("--threads", type=int, required=True, help="cores this process may use")
    parser.add_argument("--scratch", type=Path, required=True, help="folder in memory for what is only passing")
    arguments = parser.parse_args()

    # A child must not outlive its daemon: what it was doing is run again by the next one.
    tie_to(arguments.daemon, signal.SIGKILL)
    # Ctrl-C in the daemon's terminal reaches the whole group; the daemon decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A camera that wakes up with a frame goes first: 60 of 8 MiB a second on two cores, append p99 1.5 ms, so 0.9.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return Given(socket.socket(fileno=arguments.channel), arguments.threads, arguments.scratch)
