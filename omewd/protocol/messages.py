"""Messages: one JSON object each over a Unix SOCK_SEQPACKET socket, descriptors beside it where needed.

Requests are ``{"op": …}``; replies are ``{"ok": …}`` or ``{"error": {"code", "message", "remedy"}}``. One that is
larger than a packet (a status of many streams) is in sealed memory whose descriptor comes last, and the packet says
``{"in_memory": bytes}``.

What is large and not for the daemon itself (the positions of a plate, a microscope's settings) is an attachment:
bytes in sealed memory of their own, whose descriptor comes last; the message says ``"attached": bytes``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from typing import Any

from omewd.errors import OmewdError
from omewd.model.jsonable import to_jsonable

# Below the kernel's default send buffer (212,992 bytes), so that one packet always fits.
MAX_PACKET_BYTES = 128 * 1024
# What is larger is sent in memory: several packets of this size fit in that buffer, before a busy writer reads them.
_INLINE_BYTES = 8 * 1024
MAX_MESSAGE_BYTES = 4 * 2**20
# What a client may ask in one message, beside an attachment: the worst JSON of that size takes 10 ms to parse.
MAX_REQUEST_BYTES = 256 * 1024
MAX_DESCRIPTORS = 4
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """A message as bytes; numpy's numbers, paths and models become what JSON has.

    Raises OmewdError ``bad_message`` for what can't be said in JSON, ``too_large`` over the limit.
    """
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False, default=to_jsonable).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise OmewdError("bad_message", f"this can't be sent to omewd: {error}", "Use what JSON has") from error
    if len(data) > MAX_MESSAGE_BYTES:
        raise OmewdError("too_large", f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes, most_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """A message from bytes that nobody vouches for; raises OmewdError ``bad_message``, ``too_large``."""
    if len(data) > most_bytes:
        raise OmewdError("too_large", f"a message of {len(data)} bytes is over the limit of {most_bytes}")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OmewdError("bad_message", f"a control message is one JSON object; this is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise OmewdError("bad_message", f"a control message is one JSON object, this is a {type(message).__name__}")
    return message


def send(
    connection: socket.socket, message: Message, descriptors: tuple[int, ...] = (), *, attachment: bytes = b""
) -> int:
    """Send a message; returns how many bytes of memory it takes until it is read, beside the packet."""
    if len(attachment) > MAX_MESSAGE_BYTES:
        raise OmewdError("too_large", f"{len(attachment)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    data = encode({**message, "attached": len(attachment)} if attachment else message)
    in_memory = len(data) > _INLINE_BYTES
    with contextlib.ExitStack() as memories:
        sent = list(descriptors)
        for part in ([attachment] if attachment else []) + ([data] if in_memory else []):
            sent.append(_in_memory(part))
            memories.callback(os.close, sent[-1])
        packet = encode({"in_memory": len(data)}) if in_memory else data
        if sent:
            socket.send_fds(connection, [packet], sent)
        else:
            connection.send(packet)
    return len(attachment) + (len(data) if in_memory else 0)


def _in_memory(data: bytes) -> int:
    """A descriptor of memory that nobody can change any more."""
    memory = os.memfd_create("omewd-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(memory, left) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _out_of_memory(descriptors: list[int], most_bytes: int) -> bytes:
    """What is in the last of the descriptors, which it closes; raises OmewdError ``bad_message``, ``too_large``."""
    if not descriptors:
        raise OmewdError("bad_message", "a message that is in memory comes without a descriptor")
    memory = descriptors.pop()
    try:
        # Only sealed memory: a read of anything else may take for ever, or change on the way.
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise OmewdError("bad_message", "a message that is in memory has to be sealed")
        size = os.fstat(memory).st_size
        if size > most_bytes:
            raise OmewdError("too_large", f"a message of {size} bytes is over the limit of {most_bytes}")
        return os.pread(memory, size, 0)
    except OSError as error:
        raise OmewdError("bad_message", f"a message in memory can't be read: {error.strerror}") from error
    finally:
        os.close(memory)


def receive(connection: socket.socket, most_bytes: int = MAX_MESSAGE_BYTES) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, None at end-of-file; an attachment is under the key "attachment" then.

    ``most_bytes``: how long the message may be without that. Raises OmewdError ``too_large`` or ``bad_message``,
    BlockingIOError if nothing is there.
    """
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, MAX_DESCRIPTORS)
    try:
        for descriptor in descriptors:  # recv_fds of Python 3.11 ignores MSG_CMSG_CLOEXEC
            os.set_inheritable(descriptor, False)
        if flags & socket.MSG_TRUNC:
            raise OmewdError("too_large", f"a control packet is over the limit of {MAX_PACKET_BYTES} bytes")
        if not data:
            close_all(descriptors)
            return None
        message = decode(data, most_bytes)
        if "in_memory" in message:
            message = decode(_out_of_memory(descriptors, most_bytes), most_bytes)
        message.pop("attachment", None)  # nobody writes that into the JSON
        if message.pop("attached", 0):
            message["attachment"] = _out_of_memory(descriptors, MAX_MESSAGE_BYTES)
        return message, descriptors
    except OmewdError:
        close_all(descriptors)
        raise


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
