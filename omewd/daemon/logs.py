"""The daemon's log: structlog to standard error, for people or as JSON lines."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from typing import TextIO, cast

import structlog


class PatientStream:
    """Standard error for a daemon. If its reader is gone or slow, lines get lost, but the daemon never waits."""

    # A pipe that polls as writable takes this many bytes without blocking (pipe(7), PIPE_BUF).
    _AT_ONCE = 4096

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> int:
        data = text.encode(errors="replace")
        if len(data) > self._AT_ONCE:
            data = data[: self._AT_ONCE - 5] + b" ...\n"
        with contextlib.suppress(OSError):
            if self._poll.poll(0):
                os.write(self._descriptor, data)
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def configure(log_format: str, level: str = "info") -> None:
    """Configure the log, now or again. ``log_format``: "console" or "json"."""
    renderer: structlog.types.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, PatientStream(sys.stderr.fileno()))),
    )
