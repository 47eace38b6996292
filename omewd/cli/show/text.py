"""Fits text into the cells of a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def text_width(text: str) -> int:
    """How many cells of a terminal a text takes; names may be in any script."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, size: int, *, left: bool) -> str:
    space = " " * (size - text_width(text))
    return text + space if left else space + text


def shortened(name: str, size: int) -> str:
    """Shorten a name to ``size`` cells. Its start and its end stay, because the end distinguishes it from others."""
    if text_width(name) <= size:
        return name
    head, tail = name[: len(name) * 2 // 3], name[len(name) * 2 // 3 :]
    while head and tail and text_width(head) + 1 + text_width(tail) > size:
        if text_width(head) > 2 * text_width(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return f"{head}…{tail}"


def still_missing(sources: Sequence[str]) -> str:
    """What to add about a copy whose ``sources`` of other daemons were not copied yet when it was complete."""
    if not sources:
        return ""
    what = f"source {sources[0]}, which" if len(sources) == 1 else f"sources {', '.join(sources)}, which"
    return f"; it opens once it has {what} other daemons copy"
