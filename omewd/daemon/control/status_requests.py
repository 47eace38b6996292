"""Requests for the status of the daemon and its streams."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from omewd import __version__
from omewd.daemon.config import ServeConfig
from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import Handler, Peer
from omewd.daemon.control.status import rates_of_drives, stream_status
from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.streams.memory import MemoryBudget
from omewd.daemon.streams.streams import Streams
from omewd.protocol.messages import MAX_MESSAGE_BYTES, Message
from omewd.protocol.status import DaemonStatus, StreamStatus

# The limit for all streams in one status message; the streams that ended first are left out.
_STATUS_BYTES = MAX_MESSAGE_BYTES * 3 // 4
_MOST_COPIES = 100


class StatusRequests:
    """Replies once a turn of the loop has looked at the streams, so that a request itself steps nothing."""

    def __init__(
        self, config: ServeConfig, streams: Streams, memory: MemoryBudget, delivery: Delivery, replies: PendingReplies
    ) -> None:
        self._config, self._streams, self._memory = config, streams, memory
        self._delivery, self._replies = delivery, replies
        self._started_ns = time.monotonic_ns()

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {"status": self._status}

    def _status(self, peer: Peer, message: Message) -> None:
        name = message.get("name")
        for stream in self._streams.open.values() if name is None else [self._streams.named(name)]:
            self._streams.look_at(stream)
        if name is None:
            self._replies.after_this_turn(peer, self._of_all)
        else:
            self._replies.after_this_turn(peer, lambda: self._of_stream(name))

    def _of_stream(self, name: object) -> Message:
        now_ns = time.monotonic_ns()
        rates = rates_of_drives(self._streams.open.values(), now_ns)
        return stream_status(self._streams.named(name), now_ns, rates=rates).to_json()

    def _of_all(self) -> Message:
        now_ns = time.monotonic_ns()
        known = [*self._streams.open.values(), *reversed(self._streams.ended.values())]
        rates = rates_of_drives(self._streams.open.values(), now_ns)
        shown: list[StreamStatus] = []
        size = 0
        for stream in known:
            entry = stream_status(stream, now_ns, rates=rates)
            size += len(json.dumps(entry.to_json()))
            if size > _STATUS_BYTES:
                break
            shown.append(entry)
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round((now_ns - self._started_ns) / 1e9, 1),
            stopping=self._streams.is_closed,
            data_roots=tuple(map(str, self._config.data_roots)),
            memory=self._memory.status(),
            backends=self._delivery.backends,
            writers=self._delivery.writers_status(),
            kept_rings=tuple(kept.status() for kept in self._streams.kept.values()),
            streams=tuple(shown),
            copies=tuple(copy.status() for copy in self._streams.copies.all[:_MOST_COPIES]),
            copiers=self._delivery.copiers_status(),
            streams_not_shown=len(known) - len(shown),
        ).to_json()
