"""The journal: what a restarted daemon must know of the streams that were open.

One JSON file a stream in the state directory, written when its ring is made, again when it takes frames, and removed
when nothing more will happen to it: the spec, the ring's name, the dataset. How far a stream is stands in its ring.
Where only its dataset has to be seen to, by a job that needs no ring, the entry is set apart under a name that says
which and has its epoch, so that a new stream may have the old one's name meanwhile.

An entry has its version. Fields of newer minor versions are ignored; an entry of another major version is kept as it
is, with its ring, and reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omewd.errors import OmewdError
from omewd.protocol.versions import JOURNAL, Version

# How far a stream was: its dataset is being made; it has taken frames, and its ring says the rest.
STARTING, ACTIVE = "starting", "active"
# What is left to do where an entry is set apart: the kinds of those jobs.
UNDO, RECOVER, SWEEP = "undo", "recover", "sweep"
# No name of a stream has it.
_APART = "~"


class Journal:
    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "streams"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, name: str, entry: dict[str, Any]) -> None:
        """Put an entry in place, whole and on disk; raises OSError."""
        aside = self._folder / f".{name}.new"
        with aside.open("w") as file:
            json.dump({"version": str(JOURNAL), **entry}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._path(name))
        self._sync()

    def remove(self, name: str, epoch: int | None) -> None:
        """Remove the entry of the stream of an epoch, None for whatever is there; one that came later stays."""
        if self._is_of(name, epoch):
            self._path(name).unlink(missing_ok=True)

    def set_apart(self, name: str, kind: str, epoch: int) -> str:
        """Give the entry of the stream of an epoch a name that says which job is left to do; returns it."""
        apart = f"{kind}{_APART}{epoch:x}"
        if name != apart and self._is_of(name, epoch):
            with contextlib.suppress(FileNotFoundError):
                self._path(name).rename(self._path(apart))
            self._sync()
        return apart

    def go_on_with(self, done: str, kind: str, epoch: int) -> None:
        """Of two jobs that are left to do one is done, and the other one is of this kind. Raises OSError."""
        self.set_apart(f"{done}{_APART}{epoch:x}", kind, epoch)

    def done(self, kind: str, epoch: int) -> None:
        """Remove what was set apart."""
        self._path(f"{kind}{_APART}{epoch:x}").unlink(missing_ok=True)

    @staticmethod
    def kind_of(name: str) -> str | None:
        """What is left to do by an entry that is set apart; None if it is of a stream."""
        kind, apart, _ = name.partition(_APART)
        return kind if apart else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _is_of(self, name: str, epoch: int | None) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return epoch is None or json.loads(self._path(name).read_text()).get("epoch") == epoch
        return True

    def _sync(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str) -> dict[str, Any]:
        """An entry; empty if it can't be read."""
        try:
            entry = json.loads(self._path(name).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return entry if isinstance(entry, dict) else {}

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, entry) of every stream that was open when the last daemon ended, and of what was left to do."""
        for path in sorted(self._folder.glob("*.json")):
            yield path.stem, self.read(path.stem)


def require_readable(entry: Any) -> None:
    """Raise OmewdError ``other_version`` for an entry of another major version. One without a version is of 1.0."""
    told = entry.get("version", "1.0") if isinstance(entry, dict) else "1.0"
    version = Version.parse(told)
    if version is None or not JOURNAL.reads(version):
        raise OmewdError(
            "other_version",
            f"its entry in the journal is of version {told}, and this omewd reads version {JOURNAL.major}",
            "Start the omewd that made it with the same --state-dir: that one goes on with it",
        )


def instance_name(state_dir: Path) -> str:
    """What the names of a daemon's shared memory begin with: its own for each state directory."""
    return f"omewd-{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:10]}"


def boot_id() -> str:
    """Another one after each start of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class InstanceLock:
    """Held by the one daemon of a state directory; the kernel drops it with the process."""

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OmewdError(
                "start_failed", f"can't use the state directory {state_dir}: {error.strerror}", "Choose a --state-dir"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise OmewdError(
                "already_running",
                f"a daemon (process {owner}) already uses {state_dir}",
                "Use that one, or give this one its own --state-dir and --socket",
            ) from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
