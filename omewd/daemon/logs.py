"""The daemon's log: structlog to standard error, for people or as JSON lines."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(log_format: str, level: str = "info") -> None:
    """``log_format``: "console" or "json"."""
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
