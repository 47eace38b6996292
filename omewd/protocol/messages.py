"""Messages: each is one JSON object, sent over a Unix SOCK_SEQPACKET socket, with descriptors if needed.

Requests are ``{"op": …}``; replies are ``{"ok": …}`` or ``{"error": {"code", "message", "remedy"}}``. A message that is
larger than a packet (a status of many streams) is in sealed memory, whose descriptor comes last; the packet is then
``{"in_memory": bytes}``.

Large data that the daemon itself does not need (the positions of a plate, a microscope's settings) are an attachment:
bytes in sealed memory of their own, whose descriptor comes last. The message then has ``"attached": bytes``.
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
from omewd.protocol.descriptors import MOST_AT_ONCE, close_all

# Below the kernel's default send buffer (212,992 bytes), so that one packet always fits.
MAX_PACKET_BYTES = 128 * 1024
# Larger messages are sent in memory. Several packets of this size fit in that buffer before a busy writer reads them.
_INLINE_BYTES = 8 * 1024
MAX_MESSAGE_BYTES = 4 * 2**20
# The limit of a client's request without its attachment: the worst JSON of this size takes 10 ms to parse.
MAX_REQUEST_BYTES = 256 * 1024
MAX_DESCRIPTORS = 4
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Encode a message; numpy numbers, paths and models become JSON values.

    Raises OmewdError ``bad_message`` for values that JSON lacks, ``too_large`` over the limit.
    """
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False, default=to_jsonable).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise OmewdError("bad_message", f"this can't be sent to omewd: {error}", "Use values that JSON has") from error
    if len(data) > MAX_MESSAGE_BYTES:
        raise OmewdError("too_large", f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes, most_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """Decode untrusted bytes; raises OmewdError ``bad_message``, ``too_large``."""
    if len(data) > most_bytes:
        raise OmewdError("too_large", f"a message of {len(data)} bytes is over the limit of {most_bytes}")
    try:
        message = json.loads(data.decode())  # from bytes, json would also take UTF-16 and surrogates
    except (ValueError, RecursionError) as error:
        raise OmewdError(
            "bad_message", f"a control message must be one JSON object, but this is not JSON: {error}"
        ) from error
    if not isinstance(message, dict):
        raise OmewdError("bad_message", f"a control message must be one JSON object, not a {type(message).__name__}")
    return message


def send(
    connection: socket.socket, message: Message, descriptors: tuple[int, ...] = (), *, attachment: bytes = b""
) -> int:
    """Send a message; returns the bytes of memory, beside the packet, that it takes until it is read."""
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
    """A descriptor of sealed memory, which nobody can change."""
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
    """Read and close the last descriptor; raises OmewdError ``bad_message``, ``too_large``."""
    if not descriptors:
        raise OmewdError("bad_message", "a message in memory came without a descriptor")
    memory = descriptors.pop()
    try:
        # Reading anything but sealed memory may take for ever, or it may change during the read.
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise OmewdError("bad_message", "a message in memory must be sealed")
        size = os.fstat(memory).st_size
        if size > most_bytes:
            raise OmewdError("too_large", f"a message of {size} bytes is over the limit of {most_bytes}")
        return os.pread(memory, size, 0)
    except OSError as error:
        raise OmewdError("bad_message", f"a message in memory can't be read: {error.strerror}") from error
    finally:
        close_all([memory])


def receive(connection: socket.socket, most_bytes: int = MAX_MESSAGE_BYTES) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, None at end of file. An attachment is under the message's key "attachment".

    ``most_bytes``: the limit of the message without its attachment. Raises OmewdError ``too_large`` or ``bad_message``,
    BlockingIOError if there is no message.
    """
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, MOST_AT_ONCE)
    try:
        for descriptor in descriptors:  # recv_fds of Python 3.11 ignores MSG_CMSG_CLOEXEC
            os.set_inheritable(descriptor, False)
        if flags & socket.MSG_TRUNC:
            raise OmewdError("too_large", f"a control packet is over the limit of {MAX_PACKET_BYTES} bytes")
        if len(descriptors) > MAX_DESCRIPTORS:
            raise OmewdError(
                "too_large", f"{len(descriptors)} descriptors in a packet are over the limit of {MAX_DESCRIPTORS}"
            )
        if not data:
            close_all(descriptors)
            return None
        message = decode(data, most_bytes)
        if "in_memory" in message:
            message = decode(_out_of_memory(descriptors, most_bytes), most_bytes)
        message.pop("attachment", None)  # the JSON itself must not have this key
        if message.pop("attached", 0):
            message["attachment"] = _out_of_memory(descriptors, MAX_MESSAGE_BYTES)
        return message, descriptors
    except OmewdError:
        close_all(descriptors)
        raise
