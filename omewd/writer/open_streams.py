"""The streams that a writer has been told of."""

from __future__ import annotations

import os
from pathlib import Path

from omewd.errors import OmewdError
from omewd.protocol.jobs.job import StreamToOpen
from omewd.ring.segment import Segment
from omewd.store.tools import Tools
from omewd.writer.open_stream import OpenStream


class OpenStreams:
    """``tools``: what jobs of all streams work with. A stream that can't be opened fails its jobs, and no others."""

    def __init__(self, threads: int, scratch: Path) -> None:
        self.tools = Tools(threads, scratch)
        self._streams: dict[int, OpenStream | OmewdError] = {}

    def get(self, number: int) -> OpenStream:
        """The stream of that number; raises the OmewdError that has kept it from being opened."""
        stream = self._streams.get(number)
        if stream is None:
            raise OmewdError("bad_message", f"this writer has not been told of stream {number}")
        if isinstance(stream, OmewdError):
            raise stream
        return stream

    def open(self, message: dict[str, object], details: bytes) -> None:
        """Take what the daemon tells of a stream."""
        stream = StreamToOpen.from_json(message, details)
        try:
            self._streams[stream.stream] = OpenStream(stream, self.tools)
        except OmewdError as error:
            self._streams[stream.stream] = error

    def add_ring(self, number: int, source: int, descriptor: int) -> None:
        """Take the ring of a source."""
        try:
            # Touch the whole ring now: the first touch of a page costs more than the copy of it.
            segment = Segment.open(descriptor, owner=os.geteuid(), writable=False, populate=True)
            stream = self._streams[number]
            if isinstance(stream, OmewdError):
                segment.close()
            else:
                stream.add_ring(source, segment)
        except OmewdError as error:
            self.close(number)
            self._streams[number] = error

    def close(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if isinstance(stream, OpenStream):
            stream.close()

    def close_all(self) -> None:
        for number in list(self._streams):
            self.close(number)
        self.tools.close()
