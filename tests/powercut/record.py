"""The record: each system call of a process tree that changes files or makes them durable, in one order, with its data.

strace writes it. A call that others overlap has two lines, its start and its end. Both matter: a sync covers the calls
that had returned before it began, and counts once it has returned.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# A string that is longer than this would be cut off, which is an error here.
_LONGEST_STRING = 1 << 22
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
_SYNCS = ("fsync", "fdatasync", "syncfs", "sync")
_CALLS = (
    *_WRITES,
    *_SYNCS,
    *("open", "openat", "openat2", "creat", "truncate", "ftruncate", "fallocate"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat"),
    # These are not modelled: whoever makes one in the recorded folders fails.
    *("symlink", "symlinkat", "copy_file_range", "sendfile", "splice", "io_uring_setup", "setxattr", "fsetxattr"),
)
_STRING = r'"((?:\\x[0-9a-f]{2})*)"'
_START = re.compile(r"(\d+) +(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_RESULT = re.compile(r"\) += (-?\d+|\?)")
_DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")


class NotModelledError(Exception):
    """A system call in the recorded folders that the record has no meaning for."""


@dataclass(frozen=True)
class Call:
    """One call that succeeded. ``begin``, ``end``: the lines of the trace at which it began and returned.

    ``is_certain``: its process was not killed in it. Otherwise, it has taken effect or not.

    ``paths``: relative to the recorded folder; ``""`` is the folder. ``data`` at ``offset`` (None: where the file ends)
    of a write; ``size`` of a truncation; ``flags`` of an open or of fallocate.
    """

    begin: int
    end: int
    name: str
    paths: tuple[str, ...] = ()
    data: bytes = b""
    offset: int | None = None
    size: int = 0
    flags: str = ""
    is_certain: bool = True


@dataclass(frozen=True)
class Mark:
    """A line that the driver of the scenario has written into its file of marks: what a client had been told."""

    at: int
    text: str


def strace(trace: Path, command: Sequence[str], *options: str) -> list[str]:
    """The command line that runs a command and its children under strace. ``options``: such as errors to inject."""
    return [
        *("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", str(_LONGEST_STRING), "-e", "signal=none"),
        *("-e", f"trace={','.join(_CALLS)}", "-o", str(trace), *options, *command),
    ]


def can_trace() -> str | None:
    """Why nothing can be recorded here; None if it can."""
    try:
        done = subprocess.run(["strace", "-f", "--seccomp-bpf", "true"], capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return None if done.returncode == 0 else f"strace can't trace here: {done.stderr.decode()[-200:]}"


def read_trace(trace: Path, folder: Path, recorded: Sequence[str], marks: Path) -> tuple[list[Call], list[Mark]]:
    """The calls in a folder, in the order in which they returned, and the marks.

    ``recorded``: the names in ``folder`` whose trees count. ``marks``: the file into which the driver writes marks.
    """
    return _Reader(folder, recorded, marks).read(trace)


class _Reader:
    def __init__(self, folder: Path, recorded: Sequence[str], marks: Path) -> None:
        self._folder, self._recorded, self._marks_file = str(folder), set(recorded), str(marks)
        self._calls: list[Call] = []
        self._marks: list[Mark] = []

    def read(self, trace: Path) -> tuple[list[Call], list[Mark]]:
        begun: dict[str, tuple[int, str, str]] = {}
        with trace.open(encoding="ascii", errors="strict") as lines:
            for number, line in enumerate(lines):
                if resumed := _RESUMED.match(line):
                    begin, name, start = begun.pop(resumed[1])
                    self._take(begin, number, name, start + resumed[2])
                elif started := _START.match(line):
                    if started[3].endswith("<unfinished ...>\n"):
                        begun[started[1]] = (number, started[2], started[3].removesuffix("<unfinished ...>\n"))
                    else:
                        self._take(number, number, started[2], started[3])
        for begin, name, text in begun.values():
            self._take(begin, begin, name, text)
        return sorted(self._calls, key=lambda call: call.end), self._marks

    def _take(self, begin: int, end: int, name: str, text: str) -> None:
        results = list(_RESULT.finditer(text))
        is_certain = bool(results) and results[-1][1] != "?"
        if (is_certain and int(results[-1][1]) < 0) or (not is_certain and name in _SYNCS):
            return
        arguments = text[: results[-1].start()] if results else text
        before = len(self._calls)
        if name in _WRITES:
            self._take_write(begin, end, name, arguments, int(results[-1][1]) if is_certain else None)
        elif name == "sync":
            self._calls.append(Call(begin, end, "syncfs", ("",)))
        elif (paths := self._paths(name, arguments)) is not None:
            self._calls.append(self._call(begin, end, name, paths, arguments))
        if not is_certain:
            self._calls[before:] = [replace(call, is_certain=False) for call in self._calls[before:]]

    def _take_write(self, begin: int, end: int, name: str, arguments: str, count: int | None) -> None:
        described = _DESCRIPTOR.match(arguments)
        if described is None:
            return
        path = _text(described[1])
        if path == self._marks_file:
            self._marks.append(Mark(end, _data(arguments)[:count].decode()))
            return
        inside = self._inside(path)
        if inside is None or described[2]:
            return
        offset = None
        if name.startswith("p"):
            last = arguments.split(", ")
            offset = int(last[-2 if name == "pwritev2" else -1])  # its flags come last
        self._calls.append(Call(begin, end, "write", (inside,), _data(arguments)[:count], offset))

    def _call(self, begin: int, end: int, name: str, paths: tuple[str, ...], arguments: str) -> Call:
        rest = re.sub(_STRING, "", _DESCRIPTOR.sub("", arguments))
        numbers = [int(number) for number in re.findall(r"(?<![\w])\d+(?![\w])", rest)]
        match name:
            case "open" | "openat" | "creat":
                flags = "O_CREAT|O_TRUNC" if name == "creat" else rest
                return Call(begin, end, "open", paths, flags=flags)
            case "truncate" | "ftruncate":
                return Call(begin, end, "truncate", paths, size=numbers[-1])
            case "fallocate":
                return Call(begin, end, "fallocate", paths, offset=numbers[-2], size=numbers[-1], flags=rest)
            case "fsync" | "fdatasync" | "syncfs":
                return Call(begin, end, "syncfs" if name == "syncfs" else "fsync", paths)
            case "rename" | "renameat" | "renameat2" if "RENAME_" not in rest:
                return Call(begin, end, "rename", paths)
            case "unlink" | "unlinkat" | "rmdir":
                return Call(begin, end, "unlink", paths)
            case "mkdir" | "mkdirat":
                return Call(begin, end, "mkdir", paths)
            case "link" | "linkat":
                return Call(begin, end, "link", paths)
        raise NotModelledError(f"{name}({arguments[:200]}")

    def _paths(self, name: str, arguments: str) -> tuple[str, ...] | None:
        """The paths of a call in the recorded folders; None if it has none."""
        found: list[str | None] = []
        folder = ""
        tokens = re.finditer(f"(?P<fd>{_DESCRIPTOR.pattern})|(?P<text>{_STRING})", arguments)
        for token in tokens:
            if token["fd"]:
                folder = _text(token[2])
                if token[3]:
                    return None
                if name in ("ftruncate", "fallocate", *_SYNCS):
                    found.append(self._inside(folder))
            elif token["text"]:
                found.append(self._inside(os.path.join(folder, _text(token[5]))))  # noqa: PTH118
        if not any(path is not None for path in found):
            return None
        if any(path is None for path in found):
            raise NotModelledError(f"{name} out of the recorded folders, or into them: {found}")
        return tuple(path for path in found if path is not None)

    def _inside(self, path: str) -> str | None:
        path = os.path.normpath(path)
        if path == self._folder:
            return ""
        inside = path.removeprefix(f"{self._folder}/")
        return inside if inside != path and inside.split("/")[0] in self._recorded else None


def _text(escaped: str) -> str:
    return os.fsdecode(bytes.fromhex(escaped.replace("\\x", "")))


def _data(arguments: str) -> bytes:
    """The bytes of all strings in the arguments: of a buffer, or of several."""
    if '"...' in arguments:
        raise NotModelledError(f"more data than strace was told to show: {arguments[:200]}")
    return b"".join(_strings(arguments))


def _strings(arguments: str) -> Iterator[bytes]:
    for match in re.finditer(_STRING, arguments):
        yield bytes.fromhex(match[1].replace("\\x", ""))
