"""``python -m omewd.copier``: the entry point of a copier process, which only the daemon starts."""

from __future__ import annotations

import contextlib
import os

from omewd.process.child import begin

# While it imports its libraries: it must be ready in time even if others take all of the cores.
_NICE = 19


def main() -> None:
    given = begin("omewd.copier")
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    from omewd.copier.worker import Worker  # slow to import, so only after the precautions

    # A copy can wait. A writer is SCHED_BATCH, so it takes a core at once only from SCHED_IDLE: after each write to the
    # disk it waited 2.5 ms for a copier with a nice value of 19, and waits 0.07 ms for this one (median; Linux 6.18).
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    Worker(given.channel).run()


if __name__ == "__main__":
    main()
