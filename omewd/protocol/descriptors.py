"""Closes descriptors that came from other processes, without ever waiting for one of them.

The last descriptor of a TCP connection with SO_LINGER is only closed once its peer has read everything, or after a time
that the sender chooses (socket(7)). This holds for descriptors that the kernel closes, too: those for which a receiver
has no room, and those in packets that were never received. So all of them are received, and closed here.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct

# As many as one packet can carry (unix(7), SCM_MAX_FD).
MOST_AT_ONCE = 253
_AT_ONCE = struct.pack("ii", 0, 0)
_DESCRIPTOR_BYTES = array.array("i").itemsize
_READ_BYTES = 4096
_CONTROL_BYTES = socket.CMSG_SPACE(MOST_AT_ONCE * _DESCRIPTOR_BYTES) + socket.CMSG_SPACE(3 * _DESCRIPTOR_BYTES)


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that came with a message."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # not a socket, or of a kind that does not linger
            connection = socket.socket(fileno=descriptor)
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            finally:
                connection.detach()
        with contextlib.suppress(OSError):
            os.close(descriptor)


def receive_data(connection: socket.socket, size: int) -> bytes:
    """Receive bytes without waiting, and close the descriptors that came along; raises OSError."""
    data, beside, _, _ = connection.recvmsg(size, _CONTROL_BYTES, socket.MSG_DONTWAIT)
    _close_sent(beside)
    return data


def close_connection(connection: socket.socket) -> None:
    """Close a socket, after the descriptors in what nobody has read."""
    with contextlib.suppress(OSError):  # the other side has closed it
        connection.shutdown(socket.SHUT_RD)  # so that no more packets come
    with contextlib.suppress(OSError):
        # With credentials, each packet has something beside it, also an empty one; the end has not. Streams have no
        # empty packets.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        is_stream = connection.type == socket.SOCK_STREAM
        while True:
            data, beside, _, _ = connection.recvmsg(_READ_BYTES, _CONTROL_BYTES, socket.MSG_DONTWAIT)
            if not (data if is_stream else beside):
                break
            _close_sent(beside)
    connection.close()


def _close_sent(beside: list[tuple[int, int, bytes]]) -> None:
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            close_all(array.array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES]).tolist())
