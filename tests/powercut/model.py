"""What a filesystem may have kept at a power cut.

POSIX promises little: after fsync of a file, its data and size are on disk; after fsync of a folder, the names in it
(fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory containing the file has also
reached disk"). Of all else, anything may have happened: see Pillai et al., "All File Systems Are Not Created Equal: On
the Complexity of Crafting Crash-Consistent Applications", OSDI 2014 (ALICE), whose abstract persistence model this is,
and "Ensuring data reaches disk", LWN 2011. So here

- of a write that was not synced, each block may be on disk or not, and so may the new size, each without the other;
- a name that was made or removed is there or not, until its folder was synced;
- in the strict mode, the two halves of a rename may become durable apart, as on filesystems without a journal
  (ALICE, table 1, "directory operations: atomicity" and "ordering").

The weaker mode has what ext4, xfs and btrfs add (ext4's documentation, "Data Mode"; btrfs(5)): a rename is atomic, and
an fsync of a file also makes its own name durable. It still has them in any order, which is more than those do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from tests.powercut.record import Call, NotModelledError

BLOCK_BYTES = 4096
_OF_DESCRIPTORS = {"write", "truncate", "fallocate", "fsync"}


class Mode(Enum):
    STRICT = "renames in halves"
    ATOMIC = "atomic renames"


@dataclass(eq=False)
class Node:
    """A file or a folder, which may have any number of names."""

    is_folder: bool


@dataclass(eq=False)
class Effect:
    """The smallest part of a call that may be on disk without the rest.

    ``node``: the file or folder that changes. ``durable_at``: the line of the trace from which on it is on disk.
    """

    begin: int
    end: int
    call: Call
    node: Node
    durable_at: float = inf


@dataclass(eq=False)
class Name(Effect):
    """``name`` in a folder becomes ``to``, or is gone."""

    name: str = ""
    to: Node | None = None


@dataclass(eq=False)
class Data(Effect):
    """Bytes of one block of a file."""

    offset: int = 0
    data: bytes = b""


@dataclass(eq=False)
class Size(Effect):
    """The size of a file. ``grows``: it is at least that; otherwise, it is exactly that."""

    size: int = 0
    grows: bool = False


# What is to be kept or lost together.
Unit = tuple[Effect, ...]
# A tree: by path, the bytes of a file and a number for its inode; None for a folder.
Tree = dict[str, tuple[bytes, int] | None]


@dataclass
class History:
    """All effects of a record, in their order. ``folders``: what is there from the start, as durable folders."""

    mode: Mode
    folders: Sequence[str]
    root: Node = field(default_factory=lambda: Node(True))
    effects: list[Effect] = field(default_factory=list)

    @classmethod
    def of(cls, calls: Sequence[Call], mode: Mode, folders: Sequence[str]) -> History:
        history = cls(mode, folders)
        _Builder(history).build(calls)
        return history

    def pending(self, at: int) -> list[Unit]:
        """What had begun by a line of the trace and may be on disk or not, in units that stay together."""
        units: dict[object, list[Effect]] = defaultdict(list)
        for effect in self.effects:
            if effect.begin <= at < effect.durable_at:
                together = self.mode is Mode.ATOMIC and isinstance(effect, Name)
                units[effect.call if together else effect].append(effect)
        return [tuple(unit) for unit in units.values()]

    def tree(self, at: int, kept: Collection[Unit]) -> Tree:
        """The files that are there after a power cut, if ``kept`` of what was pending is on disk."""
        chosen = {effect for unit in kept for effect in unit}
        return _tree(self.root, [effect for effect in self.effects if effect.durable_at <= at or effect in chosen])


class _Builder:
    """Replays calls, to learn which file each is about, and which sync covers it."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._names: dict[Node, dict[str, Node]] = {history.root: {}}
        self._sizes: dict[Node, int] = {}
        self._begun: dict[Call, Node] = {}
        for folder in history.folders:
            node = self._names[history.root][folder] = self._new(is_folder=True)
            made = Call(-1, -1, "mkdir", (folder,))
            history.effects.append(Name(-1, -1, made, history.root, durable_at=-1, name=folder, to=node))

    def _new(self, *, is_folder: bool) -> Node:
        node = Node(is_folder)
        if is_folder:
            self._names[node] = {}
        else:
            self._sizes[node] = 0
        return node

    def _find(self, path: str) -> Node:
        node = self._history.root
        for name in filter(None, path.split("/")):
            node = self._names[node][name]
        return node

    def build(self, calls: Sequence[Call]) -> None:
        """Replay the calls as they return. Those of a descriptor are about the file that had the path as they began."""
        begun = [(call.begin, False, call) for call in calls if call.name in _OF_DESCRIPTORS]
        for _, returns, call in sorted(
            [*begun, *((call.end, True, call) for call in calls)], key=lambda each: each[:2]
        ):
            if not returns:
                with suppress(KeyError):  # it is given the path by a call that has not returned either
                    self._begun[call] = self._find(call.paths[0])
                continue
            try:
                self._add(call)
            except KeyError as error:
                raise NotModelledError(f"{call.name} of {call.paths}: {error} is not in the record") from error

    def _of(self, call: Call) -> Node:
        node = self._begun.get(call)
        return self._find(call.paths[0]) if node is None else node

    def _add(self, call: Call) -> None:
        match call.name:
            case "open":
                self._open(call)
            case "write":
                self._write(call, self._of(call))
            case "truncate":
                self._resize(call, self._of(call), call.size)
            case "fallocate":
                self._allocate(call, self._of(call))
            case "mkdir":
                self._name(call, call.paths[0], self._new(is_folder=True))
            case "unlink":
                self._name(call, call.paths[0], None)
            case "link":
                self._name(call, call.paths[1], self._find(call.paths[0]))
            case "rename":
                self._rename(call)
            case "fsync":
                self._synced(call, self._of(call))
            case "syncfs":
                self._synced(call, None)
            case other:
                raise NotModelledError(other)

    def _open(self, call: Call) -> None:
        [path] = call.paths
        folder, _, name = path.rpartition("/")
        if "O_CREAT" in call.flags and name not in self._names[self._find(folder)]:
            self._name(call, path, self._new(is_folder=False))
        elif "O_TRUNC" in call.flags and self._sizes[self._find(path)]:
            self._resize(call, self._find(path), 0)

    def _rename(self, call: Call) -> None:
        node = self._find(call.paths[0])
        folder, _, name = call.paths[1].rpartition("/")
        if self._names[self._find(folder)].get(name) is node:
            return  # rename(2): both are names of one file, and nothing happens
        self._name(call, call.paths[1], node)
        self._name(call, call.paths[0], None)

    def _name(self, call: Call, path: str, to: Node | None) -> None:
        folder, _, name = path.rpartition("/")
        node = self._find(folder)
        self._history.effects.append(Name(call.begin, call.end, call, node, name=name, to=to))
        if to is None:
            del self._names[node][name]
        else:
            self._names[node][name] = to

    def _write(self, call: Call, node: Node) -> None:
        start = self._sizes[node] if call.offset is None else call.offset
        end = start + len(call.data)
        if end > self._sizes[node]:
            self._sizes[node] = end
            self._history.effects.append(Size(call.begin, call.end, call, node, size=end, grows=True))
        place = start
        while place < end:
            stop = min(end, (place // BLOCK_BYTES + 1) * BLOCK_BYTES)
            part = call.data[place - start : stop - start]
            self._history.effects.append(Data(call.begin, call.end, call, node, offset=place, data=part))
            place = stop

    def _resize(self, call: Call, node: Node, size: int) -> None:
        self._sizes[node] = size
        self._history.effects.append(Size(call.begin, call.end, call, node, size=size))

    def _allocate(self, call: Call, node: Node) -> None:
        assert call.offset is not None
        end = call.offset + call.size
        if "PUNCH_HOLE" in call.flags:
            for start in range(call.offset, end, BLOCK_BYTES):
                zeros = bytes(min(BLOCK_BYTES, end - start))
                self._history.effects.append(Data(call.begin, call.end, call, node, offset=start, data=zeros))
        elif call.flags.startswith(", FALLOC_FL_KEEP_SIZE,"):
            pass  # blocks that are reserved have no bytes
        elif re.search(r"FALLOC|0x", call.flags):
            raise NotModelledError(f"fallocate{call.flags}")
        elif end > self._sizes[node]:
            self._sizes[node] = end
            self._history.effects.append(Size(call.begin, call.end, call, node, size=end, grows=True))

    def _synced(self, call: Call, node: Node | None) -> None:
        atomic = self._history.mode is Mode.ATOMIC
        covered = {
            effect
            for effect in self._history.effects
            if effect.end < call.begin
            and effect.durable_at == inf
            and (node is None or effect.node is node or (atomic and isinstance(effect, Name) and effect.to is node))
        }
        calls = {effect.call for effect in covered} if atomic else set()
        for effect in self._history.effects:
            if effect.durable_at == inf and (effect in covered or (isinstance(effect, Name) and effect.call in calls)):
                effect.durable_at = call.end


def _tree(root: Node, effects: Sequence[Effect]) -> Tree:
    names: dict[Node, dict[str, Node]] = defaultdict(dict)
    contents: dict[Node, bytearray] = defaultdict(bytearray)
    sizes: dict[Node, int] = defaultdict(int)
    for effect in effects:
        match effect:
            case Name(node=node, name=name, to=None):
                names[node].pop(name, None)
            case Name(node=node, name=name, to=to) if to is not None:
                names[node][name] = to
            case Data(node=node, offset=offset, data=data):
                content = contents[node]
                content.extend(bytes(max(offset + len(data) - len(content), 0)))
                content[offset : offset + len(data)] = data
            case Size(node=node, size=size, grows=grows):
                sizes[node] = max(sizes[node], size) if grows else size
                if not grows:
                    del contents[node][size:]
    tree: Tree = {}
    numbers: dict[Node, int] = {}

    def lay_out(node: Node, path: str, above: tuple[Node, ...]) -> None:
        if not node.is_folder:
            data = bytes(contents[node][: sizes[node]]).ljust(sizes[node], b"\0")
            tree[path] = (data, numbers.setdefault(node, len(numbers)))
        elif node not in above:  # half a rename may put a folder into itself
            if path:
                tree[path] = None
            for name, inner in names[node].items():
                lay_out(inner, f"{path}/{name}".lstrip("/"), (*above, node))

    lay_out(root, "", ())
    return tree
