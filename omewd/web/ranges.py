"""What a request for bytes asks for by its headers (RFC 9110, sections 13 and 14): single ranges. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def matches(header: str | None, etag: str, *, weakly: bool = True) -> bool:
    """Whether an If-None-Match header, or not ``weakly`` an If-Match header, names an entity tag without quotes."""
    if header is None:
        return False
    tags = [tag.strip() for tag in header.split(",")]
    return "*" in tags or any((tag.removeprefix("W/") if weakly else tag) == f'"{etag}"' for tag in tags)


def asked_for(method: str, headers: Mapping[str, str], size: int, etag: str) -> tuple[int, tuple[int, int] | None]:
    """The status of an answer, and the part [start, stop) of ``size`` bytes that it has; None for 304, 412 and 416.

    The preconditions come in the order of RFC 9110, 13.2.2, and only GET has ranges (14.2).
    """
    if (wanted := headers.get("if-match")) is not None and not matches(wanted, etag, weakly=False):
        return 412, None
    if matches(headers.get("if-none-match"), etag):
        return 304, None
    is_same = headers.get("if-range", f'"{etag}"') == f'"{etag}"'
    try:
        part = parse_range(headers.get("range"), size) if is_same and method == "GET" else None
    except RangeError:
        return 416, None
    return (200, (0, size)) if part is None else (206, part)
