"""The journal: what a restarted daemon must know about the streams that were open.

Each stream has one JSON file in the state directory, with its spec, its rings' names and its dataset. The file is
written when the rings are created and again when the stream takes frames; it is removed when nothing more will happen
to the stream. The stream's progress is recorded in its ring. If only the dataset still needs work, by a job without a
ring, the entry is set apart: its name becomes the job's kind and the stream's epoch, so that a new stream may have the
old name.

Every entry has a version. Fields of newer minor versions are ignored. An entry of another major version is kept
unchanged, with its ring, and reported.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.background import Background, Then
from omewd.daemon.loop import Loop
from omewd.daemon.state.changes import Change, Remove, Rename, Write, make, path_of
from omewd.daemon.state.folder import make_folder
from omewd.errors import OmewdError
from omewd.protocol.versions import JOURNAL, Version

log = structlog.get_logger("journal")

# The stage of a stream: its dataset is being created; or it takes frames, and its ring has its progress.
STARTING, ACTIVE = "starting", "active"
# The kinds of jobs that are left to do for an entry that is set apart.
UNDO, RECOVER, SWEEP, COPY = "undo", "recover", "sweep", "copy"
# No stream's name contains it.
_APART = "~"


class Journal:
    """The entries. A thread changes them in the order of the calls, so that the loop waits for no disk.

    What must not happen before an entry is durable waits for ``then(error)``, which the loop calls: with None once the
    entry is durable, also after a power cut, or with why it can't be. A change that nobody waits for is logged if it
    fails, and the next daemon then does the work again.
    """

    def __init__(self, state_dir: Path, loop: Loop) -> None:
        self._folder = state_dir / "streams"
        make_folder(self._folder)
        self._background: Background[Change] = Background(loop, "journal", partial(make, self._folder))

    def write(self, name: str, entry: dict[str, Any], then: Then) -> None:
        """Write an entry atomically and durably."""
        self._background.add(Write(name, json.dumps({"version": str(JOURNAL), **entry})), then)

    def remove(self, name: str, epoch: int | None, then: Then | None = None) -> None:
        """Remove the entry of a stream, unless a stream of another epoch has it; with None as epoch, in any case."""
        self._change(Remove(name, epoch), then)

    def set_apart(self, name: str, kind: str, epoch: int, then: Then | None = None) -> str:
        """Rename a stream's entry after the job that is left to do and the epoch; returns the new name."""
        apart = _apart(kind, epoch)
        if name != apart:
            self._change(Rename(name, apart, epoch), then)
        return apart

    def go_on_with(self, done: str, kind: str, epoch: int) -> None:
        """Note that one of two jobs is done, and that the other, of this kind, is left to do."""
        self.set_apart(_apart(done, epoch), kind, epoch)

    def done(self, kind: str, epoch: int) -> None:
        """Remove an entry that was set apart."""
        self._change(Remove(_apart(kind, epoch), None), None)

    def _change(self, change: Remove | Rename, then: Then | None) -> None:
        self._background.add(change, then or partial(_log, change))

    def finish(self) -> None:
        """Wait until all changes are made."""
        self._background.finish()

    def close(self) -> None:
        """Make all changes, and end the thread. Nobody is told of them any more."""
        self._background.close()

    @staticmethod
    def kind_of(name: str) -> str | None:
        """The job that is left to do for an entry that is set apart; None for a stream's entry."""
        kind, apart, _ = name.partition(_APART)
        return kind if apart else None

    def read(self, name: str) -> dict[str, Any]:
        """Read an entry; returns {} if it can't be read."""
        try:
            entry = json.loads(path_of(self._folder, name).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return entry if isinstance(entry, dict) else {}

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, entry) of every stream that was open when the last daemon ended, and of every job left to do."""
        for path in sorted(self._folder.glob("*.json")):
            yield path.stem, self.read(path.stem)


def _apart(kind: str, epoch: int) -> str:
    return f"{kind}{_APART}{epoch:x}"


def _log(change: Remove | Rename, error: Exception | None) -> None:
    if error is not None:
        log.error("an entry of the journal can't be changed", entry=change.name, error=str(error))


def require_readable(entry: Any) -> None:
    """Raise OmewdError ``other_version`` for an entry of another major version. Without a version, it has 1.0."""
    told = entry.get("version", "1.0") if isinstance(entry, dict) else "1.0"
    version = Version.parse(told)
    if version is None or not JOURNAL.reads(version):
        raise OmewdError(
            "other_version",
            f"its entry in the journal is of version {told}, and this omewd reads version {JOURNAL.major}",
            "Start the omewd that made it with the same --state-dir: that one goes on with it",
        )


def unwritten(error: Exception) -> OmewdError:
    """The error ``no_resources`` for what could not be recorded."""
    reason = error.strerror if isinstance(error, OSError) else None
    return OmewdError(
        "no_resources", f"the journal can't be written: {reason or error}", "Check the daemon's state directory"
    )


def instance_name(state_dir: Path) -> str:
    """The prefix of the names of a daemon's shared memory, which depends on the state directory."""
    return f"omewd-{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:10]}"


def boot_id() -> str:
    """An id that changes with each boot of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class InstanceLock:
    """The lock of the one daemon of a state directory. The kernel drops it with the process."""

    def __init__(self, state_dir: Path) -> None:
        try:
            make_folder(state_dir)
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
                "Use that daemon, or give this one another --state-dir and --socket",
            ) from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
