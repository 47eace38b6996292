"""The streams that a writer knows. Its front thread owns them."""

from __future__ import annotations

import os
from collections.abc import Callable

from omewd.errors import OmewdError
from omewd.protocol.jobs.job import StreamToOpen
from omewd.ring.segment import Segment
from omewd.store.tools import Tools
from omewd.writer.open_stream import OpenStream
from omewd.writer.prefault import Prefault


class OpenStreams:
    """All streams that a writer knows. ``tools``: shared by the jobs of all streams.

    ``prefault``: maps the pages of rings. ``retire``: closes a stream that gets no more jobs, after those that it has.
    A stream that can't be opened only fails its own jobs.
    """

    def __init__(self, tools: Tools, prefault: Prefault, retire: Callable[[OpenStream], None]) -> None:
        self._tools, self._prefault, self._retire = tools, prefault, retire
        self._streams: dict[int, OpenStream | OmewdError] = {}

    def get(self, number: int) -> OpenStream:
        """The stream with this id; raises the OmewdError of a stream that could not be opened."""
        stream = self._streams.get(number)
        if stream is None:
            raise OmewdError("bad_message", f"this writer does not know stream {number}")
        if isinstance(stream, OmewdError):
            raise stream
        return stream

    def open(self, message: dict[str, object], details: bytes) -> None:
        """Open a stream that the daemon describes."""
        stream = StreamToOpen.from_json(message, details)
        try:
            self._streams[stream.stream] = OpenStream(stream, self._tools)
        except OmewdError as error:
            self._streams[stream.stream] = error

    def add_ring(self, number: int, source: int, descriptor: int) -> None:
        """Map the ring of a source."""
        try:
            segment = Segment.open(descriptor, owner=os.geteuid(), writable=False)
            stream = self._streams[number]
            if isinstance(stream, OmewdError):
                segment.close()
            else:
                stream.add_ring(source, segment)
                self._prefault.begin(segment)
        except OmewdError as error:
            self.close(number)
            self._streams[number] = error

    def close(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if isinstance(stream, OpenStream):
            self._retire(stream)

    def close_all(self) -> None:
        for number in list(self._streams):
            self.close(number)
