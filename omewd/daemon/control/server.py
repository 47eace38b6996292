"""The control socket: accepts and authorises clients, reads requests, sends replies. It never waits for a client."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import grp
import os
import socket
import stat
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from omewd import __version__
from omewd.daemon.control.peer_process import process_of
from omewd.daemon.loop import Loop
from omewd.errors import OmewdError
from omewd.protocol.descriptors import close_all, close_connection
from omewd.protocol.hello import FEATURES, Hello, Welcome, require_same_major
from omewd.protocol.messages import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, Message, receive, send
from omewd.protocol.versions import CONTROL

log = structlog.get_logger("control")

HELLO = "hello"
# How many connections of a process are served in a turn of the loop, so that a turn stays short however many it has. A
# message takes 0.3 ms. With four processes of 24 connections that sent without pause, a status took the daemon 39 ms
# of its processor without this limit.
_MOST_OF_A_PROCESS = 4
MAX_CONNECTIONS = 512
_ACCEPT_PAUSE_NS = 1_000_000_000
_SO_PEERGROUPS = 59
_ACCEPTED_AT_ONCE = 16
_MAX_OPTION_BYTES = 1024  # the limit of Python's getsockopt, enough for 256 groups
_UCRED = struct.Struct("3i")
# The limit of memory in unread replies of all clients together. Each client may have one large unread reply.
MOST_UNREAD_BYTES = 64 << 20


class Peer:
    """One connected client. ``process``: the number of its process (see :func:`process_of`).

    ``attached``: (the stream's id, the source's number) of the source that it is the producer of. ``refused``: why none
    of its requests is handled. ``unread_bytes``: the memory in replies that it may not have read yet.
    """

    def __init__(self, channel: socket.socket, process: int, uid: int) -> None:
        self.channel = channel
        self.process = process
        self.uid = uid
        self.attached: tuple[int, int] | None = None
        self.unread_bytes = 0
        self.open = True
        self.refused: OmewdError | None = None

    def attach(self, stream: int, source: int) -> None:
        """Make the client the producer of a source."""
        self.attached = stream, source

    def detach(self) -> None:
        """The client is no longer a producer."""
        self.attached = None

    @property
    def has_read_all(self) -> bool:
        """Whether its socket holds no unread reply (unix(7), SIOCOUTQ)."""
        left = fcntl.ioctl(self.channel.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return left == b"\0" * 4


Handler = Callable[[Peer, Message], Message | None]


class ControlServer:
    """Serves requests with ``handle(peer, message)``, which returns the result, or None if it replies later.

    ``on_gone(peer)`` is called for every connection that ends.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._peers: set[Peer] = set()
        self._listener: socket.socket | None = None
        self._deaf_until_ns = 0
        self._turn = 0
        self._served: Counter[int] = Counter()

    def start(self, path: Path, group: str | None, handle: Handler, on_gone: Callable[[Peer], None]) -> None:
        """Listen at ``path`` for this user and, if given, for ``group``. Raises OmewdError ``start_failed``."""
        self._path = path
        self._handle = handle
        self._on_gone = on_gone
        self._allowed_gid = group_id(group) if group else None
        self._listener = self._listen()
        self._loop.watch(self._listener.fileno(), self._accept)

    def _listen(self) -> socket.socket:
        require_address(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if self._allowed_gid is None else 0o755)
            if self._allowed_gid is None:
                _require_private(self._path.parent)
            _remove_stale(self._path)
            # Nobody else can connect until the mode and the group are set.
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            if self._allowed_gid is not None:
                os.chown(self._path, -1, self._allowed_gid)
                self._path.chmod(0o660)
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            raise OmewdError(
                "start_failed", f"can't listen on {self._path}: {error.strerror or error}", "Choose another --socket"
            ) from error
        except OmewdError:
            listener.close()
            raise
        return listener

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_AT_ONCE):  # the others in the next turn
            try:
                channel, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: connected clients go on
                log.error("can't accept a connection", error=str(error))
                self._loop.forget(self._listener.fileno())
                self._deaf_until_ns = time.monotonic_ns() + _ACCEPT_PAUSE_NS
                return
            self._admit(channel)

    def listen_again(self, now_ns: int) -> None:
        """Accept connections again after a pause due to a lack of descriptors."""
        if self._deaf_until_ns and now_ns >= self._deaf_until_ns and self._listener is not None:
            self._deaf_until_ns = 0
            self._loop.watch(self._listener.fileno(), self._accept)

    def _admit(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        pid, uid, gid = _UCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        peer = Peer(channel, process_of(channel, pid), uid)
        if not self._may_connect(channel, uid, gid):
            log.warning("refused a client", pid=pid, uid=uid)
            self._refuse(peer, OmewdError("no_permission", f"user {uid} may not use this omewd daemon"))
        elif len(self._peers) >= MAX_CONNECTIONS:
            self._refuse(
                peer, OmewdError("busy", f"{MAX_CONNECTIONS} clients are connected already", "Close some of them")
            )
        else:
            self._peers.add(peer)
            self._watch(peer)
            self._read(peer)

    def _may_connect(self, channel: socket.socket, uid: int, gid: int) -> bool:
        if uid in (0, os.geteuid()):
            return True
        if self._allowed_gid is None:
            return False
        try:
            raw = channel.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
        except OSError:  # it is in too many groups
            return False
        groups = struct.unpack(f"{len(raw) // 4}I", raw)
        return self._allowed_gid in (gid, *groups)

    @staticmethod
    def _refuse(peer: Peer, error: OmewdError) -> None:
        with contextlib.suppress(OSError):
            send(peer.channel, {"error": error.to_dict()})
        peer.open = False
        close_connection(peer.channel)

    def _watch(self, peer: Peer) -> None:
        """Watch a client, behind all others: epoll reports what is readable in the order in which it was registered."""
        self._loop.forget(peer.channel.fileno())
        self._loop.watch(peer.channel.fileno(), lambda: self._read(peer))

    def _read(self, peer: Peer) -> None:
        """Read a message; after a hello, also the request that came along with it.

        Between two reads of a client, all others have their turn. So a new client is read at once, and so is its first
        request: beside a hundred clients that send without pause, it waits for one round instead of three.
        """
        if self._turn != self._loop.turn:
            self._turn = self._loop.turn
            self._served.clear()
        if self._served[peer.process] >= _MOST_OF_A_PROCESS:
            return  # it stays readable, and comes before those of its process that were served
        self._served[peer.process] += 1
        gc.disable()  # the parser of a message with 40,000 lists would start dozens of collections
        try:
            if self._read_one(peer) == HELLO and peer.open:
                self._read_one(peer)
        finally:
            gc.enable()
        if peer.open:
            self._watch(peer)

    def _read_one(self, peer: Peer) -> object:
        """Read and answer a message; returns its operation, None if there was none."""
        try:
            received = receive(peer.channel, MAX_REQUEST_BYTES)
        except BlockingIOError:
            return None
        except OmewdError as error:
            self.reply_error(peer, error)
            return None
        except OSError:
            received = None
        if received is None:
            self.drop(peer)
            return None
        message, descriptors = received
        close_all(descriptors)  # requests have none
        op = message.get("op")
        self.answer(peer, lambda: self._result(peer, message), op=op[:40] if isinstance(op, str) else "")
        return op

    def answer(self, peer: Peer, answer: Callable[[], Message | None], *, op: str) -> None:
        """Reply with what ``answer`` returns, unless that is None, or with the error that it raises."""
        try:
            try:
                result = answer()
            except RecursionError as error:  # nested as deep as the parser takes, and too deep for what followed
                raise OmewdError("bad_message", "a control message must not be nested so deep") from error
        except OmewdError as error:
            log.info("refused a request", op=op, code=error.code, reason=error.message)
            self.reply_error(peer, error)
        except Exception as error:
            log.exception("a request failed: this is a bug", op=op)
            self.reply_error(peer, OmewdError("internal", f"the daemon could not handle this: {error!r}", "Report it"))
        else:
            if result is not None:
                self.reply(peer, result)

    @staticmethod
    def _greet(peer: Peer, message: Message) -> Message:
        """Answer a hello. A client with an incompatible protocol gets the same error for all its requests."""
        try:
            hello = Hello.from_json(message)
        except ValueError as error:
            raise OmewdError("bad_message", f"the hello can't be read: {error}") from error
        try:
            require_same_major(hello.version, f"the {hello.kind[:40]}", hello.omewd)
        except OmewdError as error:
            peer.refused = error.without_traceback()
            raise
        return Welcome(str(CONTROL), __version__, FEATURES).to_json()

    def _result(self, peer: Peer, message: Message) -> Message | None:
        if message.get("op") == HELLO:
            return self._greet(peer, message)
        if peer.refused is not None:
            raise peer.refused.without_traceback()
        return self._handle(peer, message)

    def reply(self, peer: Peer, result: Message, descriptors: tuple[int, ...] = (), *, attachment: bytes = b"") -> None:
        self._send(peer, {"ok": result}, descriptors, attachment)

    def reply_error(self, peer: Peer, error: OmewdError) -> None:
        self._send(peer, {"error": error.to_dict()}, ())

    def _send(self, peer: Peer, message: dict[str, Any], descriptors: tuple[int, ...], attachment: bytes = b"") -> None:
        if not peer.open:
            return
        if peer.unread_bytes and peer.has_read_all:
            peer.unread_bytes = 0
        try:
            held_bytes = send(peer.channel, message, descriptors, attachment=attachment)
            if held_bytes:
                self._note_unread(peer, held_bytes)
        except OmewdError as error:
            if "ok" in message or len(str(message)) > MAX_MESSAGE_BYTES // 2:
                self._send(peer, {"error": error.to_dict()}, ())
        except OSError:  # the client is gone or does not read its replies
            self.drop(peer)

    def _note_unread(self, peer: Peer, held_bytes: int) -> None:
        """Limit the memory that clients hold by not reading their replies."""
        peer.unread_bytes += held_bytes
        worst = peer if held_bytes < peer.unread_bytes > MAX_MESSAGE_BYTES else None
        if worst is None and sum(p.unread_bytes for p in self._peers) > MOST_UNREAD_BYTES:
            for other in self._peers:
                if other is not peer and other.has_read_all:
                    other.unread_bytes = 0
            if sum(p.unread_bytes for p in self._peers) > MOST_UNREAD_BYTES:
                worst = max(self._peers, key=lambda p: p.unread_bytes)
        if worst is not None:
            log.warning("dropped a client that does not read its replies", pid=worst.process, bytes=worst.unread_bytes)
            self.drop(worst)

    def drop(self, peer: Peer) -> None:
        """End a connection."""
        if not peer.open:
            return
        peer.open = False
        self._peers.discard(peer)
        self._loop.forget(peer.channel.fileno())
        close_connection(peer.channel)
        self._on_gone(peer)

    def close(self) -> None:
        if self._listener is None:
            return
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for peer in list(self._peers):
            peer.detach()
            self.drop(peer)


def require_address(path: Path) -> None:
    """Raise OmewdError ``start_failed`` if the path is too long for a socket (unix(7))."""
    if len(os.fsencode(path)) > 107:
        raise OmewdError("start_failed", f"the socket path {path} is over 107 bytes", "Choose a shorter one")


def group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise OmewdError(
            "start_failed", f"there is no group {name!r}", "Create it, or start without --group"
        ) from error


def _require_private(folder: Path) -> None:
    """Raise OmewdError ``start_failed`` for a socket's folder that others own or may write to (but for /tmp's)."""
    info = folder.stat()
    if info.st_uid not in (os.geteuid(), 0) or (info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX):
        raise OmewdError(
            "start_failed",
            f"{folder} belongs to user {info.st_uid} or is open to everyone, so a socket would not be safe there",
            "Choose another --socket",
        )


def _remove_stale(path: Path) -> None:
    """Remove a socket on which nobody listens; raises OmewdError ``already_running`` if a daemon does."""
    if not path.is_socket():
        if path.exists():
            raise OmewdError("start_failed", f"{path} exists and is not a socket", "Choose another --socket")
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OmewdError("already_running", f"a daemon already listens on {path}", "Use it, or choose another --socket")
