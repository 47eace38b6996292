"""What clients ask of the daemon, and what they get."""

from __future__ import annotations

import json
import os
import time

import structlog

from omewd import __version__
from omewd.daemon.config import ServeConfig
from omewd.daemon.control.pending_replies import Waiters
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status import stream_status
from omewd.daemon.datasets.user_metadata import Annotations
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.processes.supervisor import Supervisor
from omewd.daemon.state.recovery import Recovery, resume_failed
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import State, Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.messages import MAX_MESSAGE_BYTES, Message
from omewd.protocol.status import DaemonStatus, StreamStatus, WriterStatus

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
        annotations: Annotations,
        recovery: Recovery,
    ) -> None:
        self._recovery = recovery
        self._waiters = waiters
        self._annotations = annotations
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
                self._start_stream(peer, message.get("spec"), message.get("attachment", b""), now)
            case "stop_stream":
                return self._stop_stream(message.get("name"), now)
            case "resume_stream":
                return self._resume_stream(peer, message.get("name"), now)
            case "attach":
                self._attach(peer, message.get("name"), message.get("source"))
            case "reattach":
                self._reattach(peer, message)
            case "finish":
                return self._finish(peer, now)
            case "view":
                self._view(peer, message.get("name"), message.get("source"))
            case "set_metadata":
                stream = self._streams.named(message.get("name"))
                wish = [message.get(part) for part in ("position", "well")]
                text = message.get("attachment", b"")
                self._annotations.add(peer, stream, message.get("namespace"), text, *wish)
            case "wait":
                stream = self._streams.named(message.get("name"), message.get("id"))
                number = message.get("source")
                self._waiters.add(peer, stream, None if number is None else self._source(stream, number).number)
            case other:
                raise OmewdError(
                    "bad_message",
                    f"there is no request {str(other)[:80]!r}",
                    "Requests are status, start_stream, stop_stream, resume_stream, attach, reattach, view, finish, "
                    "wait and set_metadata",
                )
        return None  # the reply comes later, or has been sent

    def _status(self, name: object, now_ns: int) -> Message:
        if name is not None:
            return self._fresh(self._streams.named(name), now_ns).to_json()
        live = [holding.stream for holding in self._streams.open.values()]
        shown: list[StreamStatus] = []
        size = 0
        for stream in (*live, *reversed(self._streams.ended.values())):
            entry = self._fresh(stream, now_ns)
            size += len(json.dumps(entry.to_json()))
            if size > _STATUS_BYTES:
                break
            shown.append(entry)
        known = len(live) + len(self._streams.ended)
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round((now_ns - self._started_ns) / 1e9, 1),
            stopping=self._lifecycle.stopping,
            data_roots=tuple(map(str, self._config.data_roots)),
            memory=self._streams.memory(),
            backends=self._supervisor.backends,
            writers=tuple(
                WriterStatus(w.id, w.process.pid, w.ready, self._dispatcher.jobs_of(w.id), w.aside)
                for w in self._supervisor.writers.values()
                if not w.leaving
            ),
            kept_rings=tuple(kept.status() for kept in self._streams.kept.values()),
            streams=tuple(shown),
            streams_not_shown=known - len(shown),
        ).to_json()

    def _fresh(self, stream: Stream, now_ns: int) -> StreamStatus:
        holding = self._streams.open.get(stream.id)
        if holding is not None:
            self._lifecycle.step(holding, now_ns)
        return stream_status(stream, now_ns)

    def _start_stream(self, peer: Peer, fields: object, details: bytes, now_ns: int) -> None:
        if self._lifecycle.stopping:
            raise OmewdError("stopping", "the daemon is stopping and takes no new streams")
        if self._supervisor.broken:
            raise OmewdError("no_writers", "writer processes can't be started here", "See the daemon's log")
        self._lifecycle.begin(fields, details, peer, now_ns)

    def _stop_stream(self, name: object, now_ns: int) -> Message:
        if (kept := self._streams.kept.get(str(name))) is not None:
            self._recovery.let_go(kept)
            return {"let_go": kept.status().to_json()}
        stream = self._streams.named(name)
        holding = self._streams.open.get(stream.id)
        if holding is not None and stream.settled:
            self._streams.release(holding)
            log.warning(
                "the ring of a failed stream is let go",
                stream=stream.spec.name,
                lost=[source.lost[:10] for source in stream.sources],
            )
        elif holding is not None:
            if stream.state is State.STARTING:
                self._lifecycle.fail(
                    holding, OmewdError("stream_stopped", "the stream was stopped while it started"), now_ns
                )
            self._lifecycle.stop(holding, "stop-stream", now_ns)
        return stream_status(stream, now_ns).to_json()

    def _resume_stream(self, peer: Peer, name: object, now_ns: int) -> Message | None:
        if str(name) in self._streams.kept:
            self._recovery.take_over_again(str(name))
            if self._streams.holding(name) is None:
                raise OmewdError(
                    "unknown_stream",
                    f"there is no ring of stream {str(name)[:80]!r} to go on with",
                    "Its dataset is finalized to what its ledger has: see omewd verify",
                )
            return stream_status(self._streams.named(name), now_ns).to_json()
        stream = self._streams.named(name)
        holding = self._streams.open.get(stream.id)
        if holding is not None and stream.state is State.FAILED and not stream.settled:
            self._waiters.then(peer, stream, lambda: self._resume(stream))
            return None
        return self._resume(stream)

    def _resume(self, stream: Stream) -> Message:
        """Take up a stream again that has come to its end."""
        now_ns = time.monotonic_ns()
        holding = self._streams.open.get(stream.id)
        if holding is None or not stream.settled or not stream.has_kept_frames:
            raise OmewdError(
                "not_failed",
                f"stream {stream.spec.name!r} is {stream.state.value}: there is nothing of it to take up again",
                "Only a stream that has FAILED, with frames in its ring, can be resumed",
            )
        resume_failed(holding, now_ns)
        return stream_status(stream, now_ns).to_json()

    @staticmethod
    def _source(stream: Stream, wish: object) -> Source:
        """The source of that name or number, or the only one; raises OmewdError ``unknown_source``."""
        names = stream.spec.source_names
        if wish is None and len(names) == 1:
            return stream.sources[0]
        if isinstance(wish, str) and stream.spec.source_axis is not None and wish in names:
            return stream.sources[names.index(wish)]
        number = int(wish) if isinstance(wish, str) and wish.isdecimal() and len(wish) < 4 else wish
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(names):
            return stream.sources[number]
        known = f"{', '.join(names)} (or 0 to {len(names) - 1})" if stream.spec.source_axis is not None else "one"
        raise OmewdError(
            "unknown_source",
            f"stream {stream.spec.name!r} has no source {str(wish)[:80]!r}; it has {known}"
            if wish is not None
            else f"stream {stream.spec.name!r} has several sources: {known}",
            "Say which one: `source=…`",
        )

    def _attach(self, peer: Peer, name: object, wish: object) -> None:
        stream = self._streams.named(name)
        source = self._source(stream, wish)
        holding = self._streams.open.get(stream.id)
        if peer.attached is not None:
            raise OmewdError("producer_exists", "this connection is a producer already")
        if holding is None or stream.state is not State.ACTIVE or not source.is_open:
            ended_by = source.ended_by or stream.ended_by
            raise OmewdError(
                "stream_stopped",
                f"stream {stream.spec.name!r} takes no frames{f' of {source.name!r}' if source.name else ''}: "
                f"it is {stream.state.value}" + (f" ({ended_by})" if ended_by else ""),
                "Start a new stream",
            )
        descriptor = self._streams.attach(holding, source.number, peer)
        try:
            reply = {**stream_status(stream, time.monotonic_ns()).to_json(), "source": source.number}
            with self._lifecycle.hang_bell(holding, source.number) as bell:
                self._server.reply(peer, reply, (descriptor, bell.fileno()))
        finally:
            os.close(descriptor)
        log.info("producer attached", stream=stream.spec.name, source=source.name, pid=peer.pid)

    def _reattach(self, peer: Peer, message: Message) -> None:
        """A producer goes on with a ring that it has; a new doorbell is all it needs."""
        stream = self._streams.named(message.get("name"), message.get("id"))
        source = self._source(stream, message.get("source"))
        holding = self._streams.open.get(stream.id)
        if holding is None or stream.epoch != message.get("epoch"):
            raise OmewdError("stream_stopped", f"stream {stream.spec.name!r} has ended, or it is another one now")
        self._streams.reattach(holding, source.number, peer)
        with self._lifecycle.hang_bell(holding, source.number) as bell:
            self._server.reply(peer, stream_status(stream, time.monotonic_ns()).to_json(), (bell.fileno(),))
        log.info("producer is back", stream=stream.spec.name, source=source.name, pid=peer.pid)

    def _view(self, peer: Peer, name: object, wish: object) -> None:
        """Whoever may connect may look: at the ring, which they can't write, and at where the dataset is."""
        stream = self._streams.named(name)
        source = self._source(stream, wish)
        holding = self._streams.open.get(stream.id)
        if stream.state is State.STARTING:
            raise OmewdError("no_frame", f"stream {stream.spec.name!r} is just starting", "Try again")
        reply = {
            **stream_status(stream, time.monotonic_ns()).to_json(),
            "source": source.number,
            "epoch": stream.epoch,
            "spec": stream.fields,
        }
        if holding is None or source.ring is None:
            self._server.reply(peer, reply, attachment=stream.details)
            return
        descriptor = os.open(f"/dev/shm{holding.rings[source.number].shared_memory}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._server.reply(peer, reply, (descriptor,), attachment=stream.details)
        finally:
            os.close(descriptor)

    def _finish(self, peer: Peer, now_ns: int) -> Message:
        holding = None if peer.attached is None else self._streams.open.get(peer.attached[0])
        number = None if peer.attached is None else peer.attached[1]
        peer.attached = None
        if holding is None:
            return {}
        self._lifecycle.stop(holding, "the producer closed the stream", now_ns, number)
        return stream_status(holding.stream, now_ns).to_json()

    def peer_gone(self, peer: Peer) -> None:
        self._waiters.forget(peer)
        holding = None if peer.attached is None else self._streams.open.get(peer.attached[0])
        if holding is None or peer.attached is None:
            return
        number = peer.attached[1]
        peer.attached = None
        holding.rings[number].producer = None
        if not holding.rings[number].producer_lives:  # else it has only hung up, and comes back
            self._lifecycle.producer_lost(holding, number, time.monotonic_ns())
