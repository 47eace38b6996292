"""A process of hostile clients: ``python -m tests.stress.hostile_client SOCKET SEED MESSAGES CLIENTS``.

It sends that many messages over that many connections at once. Some are never read, some vanish in mid sentence. Each
reply that it reads must be one of the protocol's, and none may say that the daemon has a bug. It prints how many
messages it has sent, and how often it got which code.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import select
import socket
import sys

from omewd.error_codes import CODES
from omewd.protocol.descriptors import close_all
from tests.stress.hostile_messages import Grammar, Packet


class Client:
    """One connection. ``is_deaf``: it reads no reply."""

    def __init__(self, path: str, chance: random.Random) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.is_deaf = chance.random() < 0.1
        self.left = chance.choice([1, 3, 30, 300])

    def send(self, packet: Packet) -> bool:
        """Send a packet; returns False if there is no room for it, or nobody to take it."""
        try:
            if packet.descriptors:
                socket.send_fds(self.socket, [packet.data], packet.descriptors)
            else:
                self.socket.send(packet.data)
        except BlockingIOError:  # the daemon has not read the last ones yet
            select.select([], [self.socket], [], 0.01)
        except OSError:  # too large a packet; dropped by the daemon
            pass
        else:
            for descriptor in packet.descriptors:
                os.close(descriptor)
            return True
        close_all(packet.descriptors)  # some would linger here
        return False

    def read(self, codes: collections.Counter[str]) -> bool:
        """Take in all replies that are there; returns False once the daemon has closed the connection."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 20, 8)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                return False
            reply = json.loads(data)
            code = reply["error"]["code"] if "error" in reply else "ok" if reply.keys() & {"ok", "in_memory"} else "?"
            assert code == "ok" or code in CODES, reply
            assert code != "internal", reply
            codes[code] += 1


def main(path: str, seed: int, messages: int, clients: int) -> None:
    chance = random.Random(seed)
    grammar, codes = Grammar(chance), collections.Counter[str]()
    connected: list[Client] = []
    sent = 0
    while sent < messages:
        while len(connected) < clients:
            connected.append(Client(path, chance))
        client = chance.choice(connected)
        sent += client.send(grammar.packet())
        client.left -= 1
        alive = client.is_deaf or client.read(codes)
        if client.left < 0 or not alive:
            connected.remove(client)
            if alive and chance.random() < 0.5:  # half of them wait for an answer, half of them just vanish
                select.select([client.socket], [], [], 0.05)
                client.read(codes)
            with contextlib.suppress(OSError):
                client.socket.shutdown(chance.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
            client.socket.close()
        if sent % 100 == 0:
            print(json.dumps({"sent": sent}), flush=True)
    print(json.dumps({"sent": sent, "codes": codes}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
