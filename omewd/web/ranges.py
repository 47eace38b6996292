"""The Range header of HTTP (RFC 9110, section 14), for single ranges of bytes. Pure."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII)


class RangeError(Exception):
    """A range beyond the end: the answer is 416."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The part [start, stop) of ``size`` bytes that a header asks for; None for all of it.

    Everything that the RFC lets a server ignore is ignored: other units, several ranges, and nonsense. Raises
    RangeError if nothing of the range is there.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = int(match[2])
        if not length or not size:
            raise RangeError
        return max(size - length, 0), size
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return None
    if start >= size:
        raise RangeError
    return start, min(last + 1, size)


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names an entity tag, given without quotes."""
    if header is None:
        return False
    tags = [tag.strip() for tag in header.split(",")]
    return "*" in tags or any(tag.removeprefix("W/") == f'"{etag}"' for tag in tags)
