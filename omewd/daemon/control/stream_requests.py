"""Requests about a stream: to start it, stop it, resume it, wait for its end, and watch it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import Handler, Peer
from omewd.daemon.control.source_names import source_of
from omewd.daemon.control.status import stream_status
from omewd.daemon.state.recovery import Recovery, resume_failed
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.protocol.messages import Message

log = structlog.get_logger("requests")


class StreamRequests:
    def __init__(self, streams: Streams, lifecycle: Lifecycle, replies: PendingReplies, recovery: Recovery) -> None:
        self._streams, self._lifecycle = streams, lifecycle
        self._replies, self._recovery = replies, recovery

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {
            "start_stream": self._start,
            "stop_stream": self._stop,
            "resume_stream": self._resume,
            "wait": self._wait,
            "watch": self._watch,
        }

    def _start(self, peer: Peer, message: Message) -> None:
        self._lifecycle.begin(message.get("spec"), message.get("attachment", b""), peer, time.monotonic_ns())

    def _stop(self, peer: Peer, message: Message) -> Message | None:
        name, now_ns = message.get("name"), time.monotonic_ns()
        if (kept := self._streams.kept.get(str(name))) is not None:
            result = {"let_go": kept.status().to_json()}
            self._recovery.let_go(kept, lambda error: self._replies.result(peer, error or result))
            return None
        stream = self._streams.named(name)
        if stream.settled:
            stream.acknowledge()
        if self._streams.is_open(stream):
            if stream.settled:
                self._let_go(stream)
            else:
                self._lifecycle.stop_asked(stream, now_ns)
        return stream_status(stream, now_ns).to_json()

    def _let_go(self, stream: Stream) -> None:
        self._streams.release(stream)
        self._lifecycle.memory_comes_back(time.monotonic_ns())
        lost = [source.lost[:10] for source in stream.sources]
        log.warning("discarding the ring of a failed stream", stream=stream.name, lost=lost)

    def _resume(self, peer: Peer, message: Message) -> Message | None:
        name = message.get("name")
        if str(name) in self._streams.kept:
            return self._resume_kept(str(name))
        stream = self._streams.named(name)
        if self._streams.is_open(stream) and stream.state is State.FAILED and not stream.settled:
            self._replies.when_settled(peer, stream, lambda: self._resume_settled(stream))
            return None
        return self._resume_settled(stream)

    def _resume_kept(self, name: str) -> Message:
        """Try again to take over a ring of the last daemon."""
        self._recovery.take_over_again(name)
        if self._streams.open_named(name) is None:
            raise OmewdError(
                "unknown_stream",
                f"stream {name[:80]!r} has no ring left to resume from",
                "Its dataset is finalized with what its ledger records: see omewd verify",
            )
        return stream_status(self._streams.named(name), time.monotonic_ns()).to_json()

    def _resume_settled(self, stream: Stream) -> Message:
        """Resume a failed stream that is settled."""
        now_ns = time.monotonic_ns()
        if not self._streams.is_open(stream) or not stream.settled or not stream.has_kept_frames:
            raise OmewdError(
                "not_failed",
                f"stream {stream.name!r} is {stream.state.value}: there is nothing to resume",
                "Only a FAILED stream with frames in its ring can be resumed",
            )
        resume_failed(stream, now_ns)
        self._streams.look_at(stream)
        return stream_status(stream, now_ns).to_json()

    def _wait(self, peer: Peer, message: Message) -> None:
        stream = self._streams.named(message.get("name"), message.get("id"))
        wish = message.get("source")
        source = None if wish is None else source_of(stream, wish)
        self._replies.when_ended(peer, stream, source, brief=bool(message.get("brief")))

    def _watch(self, peer: Peer, message: Message) -> Message | None:
        stream = self._streams.named(message.get("name"), message.get("id"))
        return self._replies.watches.ask(peer, stream, message.get("known"), time.monotonic_ns())
