"""``python -m omewd.writer``: the entry point of a writer process, which only the daemon starts."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from pathlib import Path

from omewd.process.lifeline import tie_to


def main() -> None:
    parser = argparse.ArgumentParser(prog="omewd.writer")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the daemon")
    parser.add_argument("--daemon", type=int, required=True, help="process id of the daemon")
    parser.add_argument("--threads", type=int, required=True, help="cores this writer may use")
    parser.add_argument("--scratch", type=Path, required=True, help="folder in memory for backends that write files")
    arguments = parser.parse_args()

    # A writer must not outlive its daemon, because the next daemon runs its jobs again.
    tie_to(arguments.daemon, signal.SIGKILL)
    # Ctrl-C in the daemon's terminal reaches the whole group, but only the daemon ends writers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Cameras go first when they wake up with a frame: with 60 frames of 8 MiB a second on two cores, append p99 falls
    # from 1.5 to 0.9 ms.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    from omewd.writer.worker import serve  # slow to import, so only after the precautions above

    serve(socket.socket(fileno=arguments.channel), threads=arguments.threads, scratch=arguments.scratch)


if __name__ == "__main__":
    main()
