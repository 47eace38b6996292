"""Finds the source of a stream that a request names."""

from __future__ import annotations

from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError


def source_of(stream: Stream, wish: object) -> Source:
    """The source with this name or number, or the only one; raises OmewdError ``unknown_source``.

    Where the stream has a part of the sources, its numbers are not those of the acquisition: text must be a name.
    """
    names = stream.spec.source_names
    if wish is None and len(names) == 1:
        return stream.sources[0]
    if isinstance(wish, str) and stream.spec.source_axis is not None and wish in names:
        return stream.sources[names.index(wish)]
    number = wish
    if isinstance(wish, str) and wish.isdecimal() and len(wish) < 4 and stream.spec.own_sources is None:
        number = int(wish)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(names):
        return stream.sources[number]
    known = f"{', '.join(names)} (or 0 to {len(names) - 1})" if stream.spec.source_axis is not None else "one"
    raise OmewdError(
        "unknown_source",
        f"stream {stream.name!r} has no source {str(wish)[:80]!r}; it has {known}"
        if wish is not None
        else f"stream {stream.name!r} has several sources: {known}",
        "Name one with `source=…`",
    )
