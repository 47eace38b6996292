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


def close_connection(connection: socket.socket) -> None:
    """Close a packet socket, after the descriptors in the packets that nobody has read."""
    with contextlib.suppress(OSError):  # the other side has closed it
        connection.shutdown(socket.SHUT_RD)  # so that no more packets come
    with contextlib.suppress(OSError):
        # With credentials, each packet has something beside it, also an empty one; the end has not.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        while True:
            _, beside, _, _ = connection.recvmsg(1, _CONTROL_BYTES, socket.MSG_DONTWAIT)
            if not beside:
                break
            for level, kind, data in beside:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    close_all(array.array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES]).tolist())
    connection.close()
