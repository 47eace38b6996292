"""Formats figures with units for people. Pure."""

from __future__ import annotations


def duration(ns: float) -> str:
    """Format nanoseconds, in ns to s."""
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= limit:
            return f"{ns / limit:.3g} {unit}" if ns < 100 * limit else f"{ns / limit:.0f} {unit}"
    return f"{ns:.0f} ns" if ns else "0"


def long_duration(seconds: float) -> str:
    """Format seconds, in seconds to days."""
    for limit, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def volume(count_bytes: float) -> str:
    """Format bytes, in B to TB, with three digits."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count_bytes >= 0.9995 * limit:
            return f"{_three_digits(count_bytes / limit)} {unit}"
    return f"{count_bytes:.0f} B"


def byte_rate(bytes_per_s: float) -> str:
    """Format bytes a second, in B/s to TB/s, with three digits."""
    return f"{volume(bytes_per_s)}/s"


def frame_rate(frames_per_s: float) -> str:
    """Format frames a second: with one decimal below 10, with two digits below 1."""
    if frames_per_s >= 9.95:
        return f"{frames_per_s:.0f} fps"
    if frames_per_s >= 0.95 or not frames_per_s:
        return f"{frames_per_s:.1f} fps"
    return f"{frames_per_s:.2g} fps" if frames_per_s >= 0.001 else "<0.001 fps"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
