"""Messages: one JSON object each over a Unix SOCK_SEQPACKET socket, descriptors beside it where needed.

Requests are ``{"op": …}``; replies are ``{"ok": …}`` or ``{"error": {"code", "message", "remedy"}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

from omewd.errors import OmewdError

# Below the kernel's default send buffer (212,992 bytes), so that one message always fits.
MAX_MESSAGE_BYTES = 128 * 1024
MAX_DESCRIPTORS = 4

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """A message as bytes; raises OmewdError ``too_large`` over the limit."""
    data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise OmewdError("too_large", f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """A message from bytes that nobody vouches for; raises OmewdError ``bad_message``."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OmewdError("bad_message", f"a control message is one JSON object; this is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise OmewdError("bad_message", f"a control message is one JSON object, this is a {type(message).__name__}")
    return message


def send(connection: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    data = encode(message)
    if descriptors:
        socket.send_fds(connection, [data], list(descriptors))
    else:
        connection.send(data)


def receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, None at end-of-file.

    Raises OmewdError ``too_large`` or ``bad_message``, BlockingIOError if nothing is there.
    """
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
    try:
        for descriptor in descriptors:  # recv_fds of Python 3.11 ignores MSG_CMSG_CLOEXEC
            os.set_inheritable(descriptor, False)
        if flags & socket.MSG_TRUNC:
            raise OmewdError("too_large", f"a control message is over the limit of {MAX_MESSAGE_BYTES} bytes")
        if not data:
            close_all(descriptors)
            return None
        return decode(data), descriptors
    except OmewdError:
        close_all(descriptors)
        raise


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
