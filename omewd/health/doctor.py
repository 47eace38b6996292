"""Judges a machine: what omewd finds there, what it lacks, and what would make it better. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omewd.daemon.checks import budget_problems
from omewd.errors import OmewdError
from omewd.health.machine import Access, Folder, Machine, Memory, ProcessLimits, SharedMemory
from omewd.model.record import Record
from omewd.store.filesystem import is_network
from omewd.store.kernels import advice as kernel_advice

FINE, ADVICE, PROBLEM = "fine", "advice", "problem"

# What serves 512 connections, and a few descriptors for each of 64 streams.
_OPEN_FILES = 1024
# Below this, the page cache and what writers hold compete for the last memory.
_LEFT_BYTES = 1 << 30
_LITTLE_DISK = 0.05
# Filesystems in memory: what is written there is gone with the machine.
_IN_MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True)
class Finding(Record):
    """One thing that was looked at. ``level``: "fine", "advice" (it works, but could be better) or "problem"."""

    subject: str = ""
    level: str = FINE
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Setup:
    """How omewd is set up here: ``budget_bytes`` of memory, and the filesystem of its state, if known."""

    budget_bytes: int
    state_filesystem: str | None = None


def examine(
    machine: Machine, folders: Sequence[Folder], access: Access, backends: Mapping[str, str | None], setup: Setup
) -> Iterator[Finding]:
    """What is found on a machine. ``backends``: for each one, why it can't be used, or None."""
    yield from _machine(machine)
    yield from _memory(machine.memory, setup.budget_bytes)
    yield from _shared_memory(machine.shared_memory, setup.budget_bytes)
    memory, shared_bytes = machine.memory, machine.shared_memory.size_bytes
    for error in budget_problems(setup.budget_bytes, memory.total, memory.cgroup, shared_bytes):
        yield of_error("memory budget", error)
    if machine.removes_ipc is not None:
        yield Finding(
            "shared memory",
            ADVICE,
            f"the system removes the rings of user {machine.removes_ipc} at the last logout, while a daemon is stopped",
            f"Run: loginctl enable-linger {machine.removes_ipc}; or run omewd as a system service",
        )
    yield from _limits(machine.limits)
    for folder in folders:
        yield from _folder(folder, machine.release)
    if setup.state_filesystem in _IN_MEMORY:
        yield Finding(
            "state directory",
            ADVICE,
            f"it is on {setup.state_filesystem}: after a restart of the machine nothing says which streams were open",
            "Put it on a disk: omewd serve --state-dir",
        )
    yield _access(access)
    yield from _backends(backends)


def of_error(subject: str, error: OmewdError) -> Finding:
    return Finding(subject, PROBLEM, error.message, error.remedy)


def _machine(machine: Machine) -> Iterator[Finding]:
    what = f"{machine.architecture}, {machine.cores} cores, Linux {machine.release}, Python {machine.python}"
    if machine.architecture not in ("x86_64", "AMD64"):
        yield Finding("machine", PROBLEM, f"{what}: rings need x86-64", "Run omewd on an x86-64 machine")
    elif machine.cores < 2:
        yield Finding("machine", ADVICE, f"{what}: a camera and a writer share the one core", "Give it two or more")
    else:
        yield Finding("machine", FINE, what)


def _memory(memory: Memory, budget_bytes: int) -> Iterator[Finding]:
    cgroup = f", of which its cgroup may use {_gib(memory.cgroup)}" if memory.cgroup is not None else ""
    what = f"{_gib(memory.total)}, {_gib(memory.available)} available{cgroup}; budget {_gib(budget_bytes)}"
    has = min(memory.total, memory.cgroup if memory.cgroup is not None else memory.total)
    if budget_bytes <= has < budget_bytes + _LEFT_BYTES:
        yield Finding(
            "memory",
            ADVICE,
            f"{what}: {_gib(has - budget_bytes)} are left for programs and the page cache",
            "Lower omewd serve --memory; half of the memory is a good start",
        )
    elif memory.available < budget_bytes <= has:
        yield Finding(
            "memory",
            ADVICE,
            f"{what}: other programs use the rest, so large rings would be refused now",
            "End other programs, or lower omewd serve --memory",
        )
    else:
        yield Finding("memory", FINE, what)


def _shared_memory(shared: SharedMemory, budget_bytes: int) -> Iterator[Finding]:
    what = f"{_gib(shared.size_bytes)} {shared.filesystem}, {_gib(shared.free_bytes)} free"
    subject = "/dev/shm"
    if shared.filesystem != "tmpfs":
        yield Finding(subject, PROBLEM, f"{what}: rings need a tmpfs there", "Run: mount -t tmpfs tmpfs /dev/shm")
    elif shared.free_bytes < budget_bytes <= shared.size_bytes:
        yield Finding(
            subject,
            ADVICE,
            f"{what}: the budget of {_gib(budget_bytes)} does not fit beside what is there",
            "Remove what other programs have left there, or see the rings of streams in omewd status",
        )
    else:
        yield Finding(subject, FINE, what)
    if not any(option in ("huge=always", "huge=within_size") for option in shared.options):
        yield Finding(
            subject,
            ADVICE,
            "its pages are small, so that large rings take longer to make and to map",
            "Run: mount -o remount,huge=within_size /dev/shm",
        )


def _limits(limits: ProcessLimits) -> Iterator[Finding]:
    whose, fine = limits.whose, True
    if limits.open_files is not None and limits.open_files < _OPEN_FILES:
        fine = False
        yield Finding(
            "limits",
            PROBLEM,
            f"{whose} may open {limits.open_files} files, and many streams and clients need {_OPEN_FILES} or more",
            "Raise the limit: LimitNOFILE= of the service, or ulimit -Hn",
        )
    for bytes_, what, where in (
        (limits.file_bytes, "write no file over", "ulimit -f unlimited, LimitFSIZE="),
        (limits.address_bytes, "map no more than", "ulimit -v unlimited, LimitAS="),
    ):
        if bytes_ is not None:
            fine = False
            yield Finding(
                "limits",
                ADVICE,
                f"{whose} may {what} {_gib(bytes_)}: larger rings and shards fail",
                f"Remove the limit: {where}",
            )
    if fine:
        files = "any number of" if limits.open_files is None else limits.open_files
        yield Finding("limits", FINE, f"{whose} may open {files} files, of any size")


def _folder(folder: Folder, release: str) -> Iterator[Finding]:
    subject = f"data root {folder.path}"
    if folder.error:
        where = f" on {folder.filesystem}" if folder.filesystem else ""
        yield Finding(subject, PROBLEM, f"it can't be looked at{where}: {folder.error}", "Check its filesystem")
        return
    io = {True: "O_DIRECT works", False: "no O_DIRECT", None: "O_DIRECT not tried: this user may not write there"}
    free = f"{_gib(folder.free_bytes)} of {_gib(folder.size_bytes)} free"
    what = f"{folder.filesystem}, {free}, {io[folder.direct]}"
    found = list(_of_folder(folder, release))
    if not found:
        yield Finding(subject, FINE, what)
    for message, remedy in found:
        yield Finding(subject, ADVICE, f"{what}: {message}", remedy)


def _of_folder(folder: Folder, release: str) -> Iterator[tuple[str, str]]:
    kind = folder.filesystem
    if kind in _IN_MEMORY:
        yield "datasets are in memory, and gone with the machine", "Use a folder on a disk"
    elif is_network(kind):
        yield (
            "datasets are written through another backend than direct, and not faster than the network",
            "Record to a local disk, and copy afterwards",
        )
    elif folder.direct is False:
        yield "writes go through the page cache, which costs a copy", "Use XFS or ext4 on a local disk"
    if (text := kernel_advice("it", kind, release)) is not None:
        yield text, "See docs/performance.md"
    if folder.free_bytes < _LITTLE_DISK * folder.size_bytes:
        yield "it is nearly full", "Free space on the drive"


def _access(access: Access) -> Finding:
    who = list(dict.fromkeys((f"user {access.owner}", "user root")))
    if access.group is not None:
        members = f"({', '.join(access.members)})" if access.members else "(which has none yet)"
        who.append(f"members of the group {access.group} {members}")
    message = f"{', '.join(who)} may connect at {access.socket}"
    if access.own:
        return Finding("access", FINE, message)
    remedy = "Ask the owner of the daemon to start it with --group"
    if access.group is not None:
        remedy = f"Run: sudo usermod -aG {access.group} USER; then log in again"
    return Finding("access", PROBLEM, f"{message}; this user may not", remedy)


def _backends(backends: Mapping[str, str | None]) -> Iterator[Finding]:
    """All but the first choice are optional."""
    for number, (name, reason) in enumerate(backends.items()):
        why, _, remedy = (reason or "can be used").partition(": ")
        yield Finding(f"backend {name}", ADVICE if reason and not number else FINE, why, remedy)
    if backends and None not in backends.values():  # the first writer of a daemon may not have told yet
        yield Finding("backends", PROBLEM, "none can be used", "Install omewd again: pip install omewd")


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.0f} MiB"
