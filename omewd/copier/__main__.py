"""``python -m omewd.copier``: the entry point of a copier process, which only the daemon starts."""

from __future__ import annotations

import contextlib
import os

from omewd.process.child import begin

# Cameras and writers go first: a copy can wait.
_NICE = 19


def main() -> None:
    given = begin("omewd.copier")
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    from omewd.copier.worker import Worker  # slow to import, so only after the precautions

    Worker(given.channel).run()


if __name__ == "__main__":
    main()
