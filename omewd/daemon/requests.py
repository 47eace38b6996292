"""What clients ask of the daemon, and what they get."""

from __future__ import annotations

import json
import os
import time

import structlog

from omewd import __version__
from omewd.control.messages import MAX_MESSAGE_BYTES, Message
from omewd.daemon.config import ServeConfig
from omewd.daemon.dispatcher import Dispatcher
from omewd.daemon.lifecycle import Lifecycle
from omewd.daemon.recovery import resume_failed
from omewd.daemon.server import ControlServer, Peer
from omewd.daemon.stream import State, Stream
from omewd.daemon.streams import Streams
from omewd.daemon.supervisor import Supervisor
from omewd.daemon.waiters import Waiters
from omewd.errors import OmewdError

log = structlog.get_logger("requests")

# All streams in one message, beside what else the status says; the oldest that ended are left out first.
_STATUS_BYTES = MAX_MESSAGE_BYTES * 3 // 4


class Requests:
    """Handles one request at a time; :meth:`handle` raises OmewdError for what can't be done."""

    def __init__(
        self,
        config: ServeConfig,
        streams: Streams,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        lifecycle: Lifecycle,
        server: ControlServer,
        waiters: Waiters,
    ) -> None:
        self._waiters = waiters
        self._config = config
        self._streams = streams
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._lifecycle = lifecycle
        self._server = server
        self._started_ns = time.monotonic_ns()

    def handle(self, peer: Peer, message: Message) -> Message | None:
        now = time.monotonic_ns()
        match message.get("op"):
            case "status":
                return self._status(message.get("name"), now)
            case "start_stream":
                self._start_stream(peer, message.get("spec"), now)
            case "stop_stream":
                return self._stop_stream(message.get("name"), now)
            case "resume_stream":
                return self._resume_stream(message.get("name"), now)
            case "attach":
                self._attach(peer, message.get("name"))
            case "reattach":
                self._reattach(peer, message)
            case "finish":
                return self._finish(peer, now)
            case "wait":
                self._waiters.add(peer, self._streams.named(message.get("name"), message.get("id")))
            case other:
                raise OmewdError(
                    "bad_message",
                    f"there is no request {str(other)[:80]!r}",
                    "Requests are status, start_stream, stop_stream, resume_stream, attach, reattach, finish and wait",
                )
        return None  # the reply comes later, or has been sent

    def _status(self, name: object, now_ns: int) -> Message:
        if name is not None:
            return self._fresh(self._streams.named(name), now_ns)
        live = [holding.stream for holding in self._streams.open.values()]
        shown: list[Message] = []
        size = 0
        for stream in (*live, *reversed(self._streams.ended.values())):
            entry = self._fresh(stream, now_ns)
            size += len(json.dumps(entry))
            if size > _STATUS_BYTES:
                break
            shown.append(entry)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round((now_ns - self._started_ns) / 1e9, 1),
            "stopping": self._lifecycle.stopping,
            "data_roots": [str(root) for root in self._config.data_roots],
            "memory": self._streams.memory(),
            "backends": self._supervisor.backends,
            "writers": [
                {"id": w.id, "pid": w.process.pid, "ready": w.ready, "jobs": self._dispatcher.jobs_of(w.id)}
                for w in self._supervisor.writers.values()
            ],
            "streams": shown,
            "streams_not_shown": len(live) + len(self._streams.ended) - len(shown),
        }

    def _fresh(self, stream: Stream, now_ns: int) -> Message:
        holding = self._streams.open.get(stream.id)
        if holding is not None:
            self._lifecycle.step(holding, now_ns)
        return stream.status(now_ns)

    def _start_stream(self, peer: Peer, fields: object, now_ns: int) -> None:
        if self._lifecycle.stopping:
            raise OmewdError("stopping", "the daemon is stopping and takes no new streams")
        if self._supervisor.broken:
            raise OmewdError("no_writers", "writer processes can't be started here", "See the daemon's log")
        self._lifecycle.begin(fields, peer, now_ns)

    def _stop_stream(self, name: object, now_ns: int) -> Message:
        stream = self._streams.named(name)
        holding = self._streams.open.get(stream.id)
        if holding is not None and stream.settled:
            self._streams.release(holding)
            log.warning("the ring of a failed stream is let go", stream=stream.spec.name, lost=stream.lost[:10])
        elif holding is not None:
            if stream.state is State.STARTING:
                self._lifecycle.fail(
                    holding, OmewdError("stream_stopped", "the stream was stopped while it started"), now_ns
                )
            self._lifecycle.stop(holding, "stop-stream", now_ns)
        return stream.status(now_ns)

    def _resume_stream(self, name: object, now_ns: int) -> Message:
        stream = self._streams.named(name)
        holding = self._streams.open.get(stream.id)
        if holding is None or not stream.settled or not stream.has_kept_frames:
            raise OmewdError(
                "not_failed",
                f"stream {stream.spec.name!r} is {stream.state.value}: there is nothing of it to take up again",
                "Only a stream that has FAILED, with frames in its ring, can be resumed",
            )
        resume_failed(holding, now_ns)
        return stream.status(now_ns)

    def _attach(self, peer: Peer, name: object) -> None:
        stream = self._streams.named(name)
        holding = self._streams.open.get(stream.id)
        if peer.attached is not None:
            raise OmewdError("producer_exists", "this connection is a producer already")
        if holding is None or stream.state is not State.ACTIVE:
            raise OmewdError(
                "stream_stopped",
                f"stream {stream.spec.name!r} takes no frames: it is {stream.state.value}"
                + (f" ({stream.ended_by})" if stream.ended_by else ""),
                "Start a new stream",
            )
        descriptor = self._streams.attach(holding, peer)
        try:
            reply = stream.status(time.monotonic_ns())
            self._server.reply(peer, reply, (descriptor, holding.to_daemon, holding.to_producer))
        finally:
            os.close(descriptor)
        log.info("producer attached", stream=stream.spec.name, pid=peer.pid)

    def _reattach(self, peer: Peer, message: Message) -> None:
        """A producer goes on with a ring that it has; new doorbells are all it needs."""
        stream = self._streams.named(message.get("name"), message.get("id"))
        holding = self._streams.open.get(stream.id)
        if holding is None or stream.geometry.epoch != message.get("epoch"):
            raise OmewdError("stream_stopped", f"stream {stream.spec.name!r} has ended, or it is another one now")
        self._streams.reattach(holding, peer)
        self._server.reply(peer, stream.status(time.monotonic_ns()), (holding.to_daemon, holding.to_producer))
        log.info("producer is back", stream=stream.spec.name, pid=peer.pid)

    def _finish(self, peer: Peer, now_ns: int) -> Message:
        holding = None if peer.attached is None else self._streams.open.get(peer.attached)
        peer.attached = None
        if holding is None:
            return {}
        self._lifecycle.stop(holding, "the producer closed the stream", now_ns)
        return holding.stream.status(now_ns)

    def peer_gone(self, peer: Peer) -> None:
        self._waiters.forget(peer)
        holding = None if peer.attached is None else self._streams.open.get(peer.attached)
        if holding is None:
            return
        peer.attached = None
        holding.producer = None
        if not self._streams.producer_lives(holding):  # else it has only hung up, and comes back
            self._lifecycle.producer_lost(holding, time.monotonic_ns())
