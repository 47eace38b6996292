"""Runs a module in a process that ends with the one that started it.

Usage: python -m omewd.bench.run.tied PARENT_PID MODULE [ARGUMENT …]
"""

from __future__ import annotations

import runpy
import signal
import sys

from omewd.process.lifeline import tie_to


def command(parent: int, module: str, *arguments: str) -> list[str]:
    """The command line that runs a module tied to a process."""
    return [sys.executable, "-P", "-m", "omewd.bench.run.tied", str(parent), module, *arguments]


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    tie_to(parent, signal.SIGTERM)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
