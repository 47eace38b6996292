"""Hostile control messages from a grammar of the protocol: what is right, and the ways in which it is made wrong.

``docs/internals/control-protocol.md`` describes what is right. Nothing here asks to stop the stream ``good``, because
any client may do that.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omewd.protocol.messages import MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, MAX_REQUEST_BYTES
from tests.support.lingering import LingeringSockets

Message = dict[str, Any]
GOOD = "good"
# Few, so that attackers start, attach to and stop each other's streams.
OWN = ("own1", "own2", "own3")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


@dataclass
class Packet:
    """What is sent at once. ``descriptors`` are closed by whoever sends it."""

    data: bytes
    descriptors: list[int] = field(default_factory=list)


def nested(depth: int, kind: str = "list") -> str:
    """JSON text that is nested so deep."""
    return "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


class Grammar:
    """Packets to be sent, by a seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    # -- what is right ---------------------------------------------------------------------------

    def request(self) -> Message:
        """A request that is right as to its form. It asks for nothing that would end the stream ``good``."""
        chance = self._chance
        name = chance.choice([GOOD, *OWN, "nobody"])
        own = chance.choice(OWN)
        requests: list[Message] = [
            {"op": "status"},
            {"op": "status", "name": name},
            {"op": "hello", "version": "1.0", "kind": "client", "omewd": "0.1.0"},
            {"op": "start_stream", "spec": self.spec(own)},
            {"op": "stop_stream", "name": own},
            {"op": "resume_stream", "name": own},
            {"op": "set_metadata", "name": name, "namespace": "test", "position": 0, "well": "A/1"},
            {"op": "wait", "name": own, "id": chance.randrange(9), "source": 0},
            {"op": "attach", "name": name, "source": 0},
            {"op": "reattach", "name": name, "id": chance.randrange(9), "source": 0, "epoch": 7},
            {"op": "finish"},
            {"op": "view", "name": name, "source": 0},
        ]
        return chance.choices(requests, weights=[4, 8, 4, 6, 6, 4, 4, 4, 6, 6, 6, 6])[0]

    def spec(self, name: str) -> Message:
        dims = [{"name": "t", "count": None}, {"name": "y", "count": 16}, {"name": "x", "count": 16}]
        return {"name": name, "output": f"{name}.ome.zarr", "overwrite": True, "dimensions": dims, "ring_slots": 4}

    # -- what is wrong ---------------------------------------------------------------------------

    def text(self) -> str:
        """JSON text of a value that hardly fits anywhere."""
        chance = self._chance
        number = chance.choice([0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400])
        return chance.choice(
            [
                "null",
                "true",
                str(number),
                str(number),
                "9" * chance.choice([4000, 4301, 5000]),
                chance.choice(["1e400", "-1e400", "NaN", "Infinity", "1e-400", "0.1", "-0.0"]),
                json.dumps("x" * chance.choice([0, 1, 65, 129, 300, 10_000])),
                chance.choice(['"\\ud800"', '"\\u0000"', '"\\udcff"', '"\\n"', '"é\\u2028"', '"../.."', '"/"', '"."']),
                chance.choice(["[]", "{}", "[[]]", '[{"a":[null]}]', "[1,2,3]", '{"name":"good"}']),
                nested(chance.choice([2, 150, 250, 900, 970, 980, 985, 990, 1100]), chance.choice(["list", "dict"])),
                json.dumps(["x"] * chance.choice([10, 1000])),
                json.dumps({str(n): n for n in range(1000)}),
                json.dumps(chance.choice(OWN)),
            ]
        )

    def wrong(self, message: Message) -> str:
        """The JSON text of a message with some of its fields, at any depth, replaced, doubled, added or left out."""
        marks: dict[str, str] = {}
        message = json.loads(json.dumps(message))
        for _ in range(self._chance.choice([0, 1, 1, 1, 2, 3])):
            self._spoil(message, marks)
        text = json.dumps(message)
        for mark, value in marks.items():
            text = text.replace(f'"{mark}"', value)
        return text

    def _spoil(self, message: Message, marks: dict[str, str]) -> None:
        chance, place = self._chance, message
        mark = f"mark {len(marks)}"
        while True:
            key: Any = chance.choice([*place]) if isinstance(place, dict) else chance.randrange(len(place))
            if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
                break
            place = place[key]
        how = chance.choice(["replace", "replace", "replace", "leave out", "add", "double"])
        if how == "leave out" and isinstance(place, dict):
            del place[key]
            place.setdefault("op", message.get("op", "status"))
        elif how == "add" and isinstance(place, dict):
            extra = ("x", "in_memory", "attached", "attachment", "source", "id", "name", "plate", "levels", "dtype")
            place[chance.choice(extra)] = mark
            marks[mark] = self.text()
        elif how == "double" and isinstance(place, dict):
            place[key] = mark
            marks[mark] = f"{self.text()},{json.dumps(str(key))}:{self.text()}"
        else:
            place[key] = mark
            marks[mark] = self.text()

    def damaged(self, data: bytes) -> bytes:
        """Bytes that are cut, changed, extended, or not UTF-8."""
        chance = self._chance
        at = chance.randrange(len(data)) if data else 0
        ways: list[Callable[[], bytes]] = [
            lambda: data[:at],
            lambda: data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
            lambda: data[:at] + chance.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf"]) + data[at:],
            lambda: data + chance.choice([b"{}", b" ", b"\0", b",", data]),
            lambda: data.decode().encode("utf-16"),
            lambda: chance.randbytes(chance.choice([1, 9, 500, 5000])),
            lambda: nested(chance.choice([900, 5000, 60_000])).encode(),
            lambda: b"",
            lambda: b" " * chance.choice([1, 8192, MAX_PACKET_BYTES]),
            lambda: b'{"op":"' + b"x" * (MAX_PACKET_BYTES + chance.choice([-20, 0, 100])),
            lambda: b"[" + b"[]," * 40_000 + b"1]",
        ]
        return chance.choice(ways)()

    # -- packets ---------------------------------------------------------------------------------

    def packet(self) -> Packet:
        """What an attacker sends next."""
        chance = self._chance
        text = self.wrong(self.request())
        data = text.encode(errors="replace")
        match chance.choices(["packet", "damaged", "in memory", "attached", "descriptors"], [50, 15, 10, 15, 10])[0]:
            case "packet":
                return Packet(data[: MAX_PACKET_BYTES + 10])
            case "damaged":
                return Packet(self.damaged(data))
            case "in memory":
                packet = f'{{"in_memory":{chance.choice([str(len(data)), self.text()])}}}'.encode()
                return Packet(packet[:MAX_PACKET_BYTES], [*self._strange(chance.randrange(2)), self._memory(data)])
            case "attached":
                said = chance.choice(["5", "5", "5", self.text()])
                with_it = f'{{"attached":{said},{text[1:]}'.encode(errors="replace")
                return Packet(with_it[:MAX_PACKET_BYTES], [self._memory(self._attachment().encode())])
            case _:
                return Packet(data[:MAX_PACKET_BYTES], self._strange(chance.choice([1, 2, 4, 5, 30])))

    def _attachment(self) -> str:
        chance = self._chance
        coords = {"coords": {"0": [1, 2], self._chance.choice(["1", "9", "-1", "x"]): ["a"]}, "plate": {"rows": 1}}
        return chance.choice([self.text(), json.dumps(coords), self.wrong(coords), '{"a": 1}', ""])

    def _memory(self, data: bytes) -> int:
        """A memfd, usually as it should be, sometimes not sealed, far too large, or holding something else."""
        chance = self._chance
        how = chance.choice(["right", "right", "right", "unsealed", "half sealed", "huge", "large", "strange", "empty"])
        if how == "strange":
            return self._strange(1)[0]
        memory = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if how == "huge":
            os.ftruncate(memory, 1 << 40)
        elif how == "large":
            os.ftruncate(memory, chance.choice([MAX_REQUEST_BYTES, MAX_REQUEST_BYTES + 1, MAX_MESSAGE_BYTES]))
        elif how != "empty":
            os.write(memory, data)
        if how != "unsealed":
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW if how == "half sealed" else _SEALS)
        return memory

    def _strange(self, count: int) -> list[int]:
        """Descriptors that have no place in a request."""
        return [self._chance.choice(_STRANGE)() for _ in range(count)]


def _pipe() -> int:
    end, other = os.pipe()
    os.close(other)
    return end


def _socket() -> int:
    end, other = socket.socketpair()
    other.close()
    return end.detach()


_lingering = LingeringSockets()
_STRANGE: list[Callable[[], int]] = [
    _pipe,
    _socket,
    _lingering.make,
    lambda: os.open("/dev/zero", os.O_RDWR),
    lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY),
    lambda: os.open("/proc/self/mem", os.O_RDONLY),
    lambda: os.memfd_create("hostile"),
    lambda: os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR),
]
