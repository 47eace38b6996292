"""What this machine has, read once. :mod:`omewd.health.doctor` judges it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import mmap
import os
import platform
import pwd
import resource
import stat
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from omewd.daemon.processes import shared_memory
from omewd.store.filesystem import filesystem_of, mount_options

T = TypeVar("T")

_SHARED_MEMORY = Path("/dev/shm")
_LINGER = Path("/var/lib/systemd/linger")
_LOGIND = (Path("/etc/systemd/logind.conf"), *sorted(Path("/etc/systemd/logind.conf.d").glob("*.conf")))
# A disk that sleeps takes ten seconds to spin up; a filesystem whose server is gone never answers.
_ANSWER_S = 20.0
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class SharedMemory:
    """/dev/shm. ``options``: of its filesystem."""

    filesystem: str
    options: tuple[str, ...]
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes. ``cgroup``: the limit of this process's cgroup, if there is one."""

    total: int
    available: int
    cgroup: int | None


@dataclass(frozen=True)
class ProcessLimits:
    """Hard limits of a process; None is unlimited. ``whose``: "the daemon" or "this shell"."""

    whose: str
    open_files: int | None
    file_bytes: int | None
    address_bytes: int | None


@dataclass(frozen=True)
class Folder:
    """A folder in which datasets go.

    ``error``: why nothing else is known. ``direct``: whether O_DIRECT works; None if it was not tried, because this
    user may not write there.
    """

    path: str
    filesystem: str
    error: str = ""
    size_bytes: int = 0
    free_bytes: int = 0
    direct: bool | None = None


@dataclass(frozen=True)
class Access:
    """Who may connect. ``owner`` and ``group``: names; group None for the owner alone. ``members``: of the group.

    ``own``: whether this user may connect.
    """

    socket: str
    owner: str
    group: str | None
    members: tuple[str, ...]
    own: bool


@dataclass(frozen=True)
class Machine:
    """``removes_ipc``: the name of this user, if logind removes its shared memory when it logs out."""

    architecture: str
    release: str
    python: str
    cores: int
    memory: Memory
    shared_memory: SharedMemory
    limits: ProcessLimits
    removes_ipc: str | None


def read_machine(daemon_pid: int | None = None) -> Machine:
    """Read the machine. ``daemon_pid``: the daemon, whose limits count if they can be read."""
    size_bytes, free_bytes = shared_memory.sizes()
    return Machine(
        architecture=platform.machine(),
        release=platform.release(),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        memory=Memory(
            shared_memory.total_memory_bytes(),
            shared_memory.available_memory_bytes(),
            shared_memory.cgroup_bytes(),
        ),
        shared_memory=SharedMemory(
            filesystem_of(_SHARED_MEMORY),
            mount_options(_SHARED_MEMORY),
            size_bytes,
            free_bytes,
        ),
        limits=_limits(daemon_pid),
        removes_ipc=_user_whose_memory_is_removed(),
    )


def _limits(daemon_pid: int | None) -> ProcessLimits:
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    if daemon_pid is not None:
        with contextlib.suppress(OSError, ValueError):  # another user's, or in another container
            if b"omewd" in Path(f"/proc/{daemon_pid}/cmdline").read_bytes():
                return ProcessLimits("the daemon", *(_bounded(resource.prlimit(daemon_pid, kind)[1]) for kind in kinds))
    return ProcessLimits("this shell", *(_bounded(resource.getrlimit(kind)[1]) for kind in kinds))


def _bounded(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _user_whose_memory_is_removed() -> str | None:
    """This user's name, if systemd-logind removes its shared memory at its last logout (logind.conf(5), RemoveIPC).

    Users of the system (below 1000) are spared, and those that linger never log out.
    """
    if os.getuid() < 1000 or not Path("/run/systemd/seats").is_dir():
        return None
    removes = True
    for path in _LOGIND:
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                key, _, value = line.partition("=")
                if key.strip() == "RemoveIPC":
                    removes = value.strip().lower() not in ("no", "false", "off", "0")
    name = user_name(os.getuid())
    return name if removes and not (_LINGER / name).exists() else None


def user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def read_folder(path: Path, *, answer_s: float = _ANSWER_S) -> Folder:
    """Look at a folder for datasets, and try whether O_DIRECT works there, with a file that has no name."""
    kind = filesystem_of(path)
    found = answered(lambda: _looked_at(path, kind), answer_s)
    return found or Folder(str(path), kind, error=f"the filesystem did not answer within {answer_s:.0f} s")


def answered(ask: Callable[[], T], within_s: float) -> T | None:
    """What ``ask()`` returns; None if it takes too long. Nothing can end a process that waits for a filesystem."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(within_s)
    return answers[0] if answers else None


def _looked_at(path: Path, kind: str) -> Folder:
    try:
        size = os.statvfs(path)
        direct = _takes_direct_writes(path) if os.access(path, os.W_OK | os.X_OK) else None
    except OSError as error:
        return Folder(str(path), kind, error=error.strerror or str(error))
    return Folder(str(path), kind, "", size.f_blocks * size.f_frsize, size.f_bavail * size.f_frsize, direct)


def _takes_direct_writes(folder: Path) -> bool:
    """Whether a block can be written past the page cache. Raises OSError for a full disk and the like."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, mmap.mmap(-1, _BLOCK_BYTES) as block:
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
            os.pwrite(file.fileno(), block, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True


def read_access(socket: Path, group: str | None) -> Access:
    """Who may use the socket: as it is, or if there is none, as a daemon of this user with ``group`` would make it."""
    owner, mine = os.geteuid(), True
    try:
        info = socket.stat()
    except OSError:
        pass
    else:
        owner, group = info.st_uid, _group_name(info.st_gid) if info.st_mode & stat.S_IWGRP else None
        mine = os.access(socket, os.W_OK)
    members: tuple[str, ...] = ()
    if group is not None:
        with contextlib.suppress(KeyError):
            members = tuple(grp.getgrnam(group).gr_mem)
    return Access(str(socket), user_name(owner), group, members, mine)
