"""What is wrong with a configuration, found without starting anything: ``omewd serve --check``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from omewd.daemon.config import ServeConfig
from omewd.daemon.control.server import group_id, require_address
from omewd.daemon.processes.shared_memory import cgroup_bytes, sizes, total_memory_bytes
from omewd.errors import OmewdError

# What Docker and Podman give a container that asks for nothing else.
_OF_CONTAINERS_BYTES = 64 << 20


def problems(config: ServeConfig) -> Iterator[OmewdError]:
    """Everything that would keep a daemon from starting with this configuration, or from working as it says."""
    yield from budget_problems(config.memory_bytes, total_memory_bytes(), cgroup_bytes(), sizes()[0])
    yield from folder_problems(config)


def folder_problems(config: ServeConfig) -> Iterator[OmewdError]:
    """What is wrong with the places that a configuration names, and with its group."""
    folders = [(root, "data root") for root in config.data_roots]
    folders += [(config.state_dir, "state directory"), (config.socket.parent, "folder of the socket")]
    checks: list[Callable[[], object]] = [partial(_require_writable, folder, what) for folder, what in folders]
    checks.append(partial(require_address, config.socket))
    if config.group is not None:
        checks.append(partial(group_id, config.group))
    for check in checks:
        try:
            check()
        except OmewdError as error:
            yield error


def require_memory(budget_bytes: int) -> None:
    """Raise OmewdError ``start_failed`` if the machine, or the cgroup of this process, has less memory."""
    for error in budget_problems(budget_bytes, total_memory_bytes(), cgroup_bytes()):
        raise error


def budget_problems(
    budget_bytes: int, machine_bytes: int, cgroup_bytes: int | None, shared_bytes: int | None = None
) -> Iterator[OmewdError]:
    """Why a memory budget is too large (``start_failed``). ``shared_bytes``: the size of /dev/shm. Pure."""
    budget = f"--memory is {budget_bytes / 2**30:.1f} GiB"
    for whose, limit in {"the machine has": machine_bytes, "its cgroup may use": cgroup_bytes}.items():
        if limit is not None and budget_bytes > limit:
            yield OmewdError(
                "start_failed",
                f"{budget}, but {whose} {limit / 2**30:.1f} GiB",
                "Leave some for the system and the page cache; half of the memory is a good start",
            )
    if shared_bytes is not None and budget_bytes > shared_bytes:
        enlarge = f"Enlarge it (mount -o remount,size={-(-budget_bytes >> 30)}G /dev/shm)"
        if shared_bytes == _OF_CONTAINERS_BYTES:
            enlarge = f"Containers get 64 MiB: start this one with --shm-size={-(-budget_bytes >> 30)}g or --ipc=host"
        yield OmewdError(
            "start_failed",
            f"{budget}, but /dev/shm has {shared_bytes / 2**30:.2f} GiB in all",
            f"{enlarge}, or lower --memory",
        )


def _require_writable(folder: Path, what: str) -> None:
    """Raise OmewdError ``start_failed`` if this user can't write into the folder, or make it."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OmewdError("start_failed", f"the {what} {folder} can't be: {nearest} is not a folder", "Name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OmewdError(
            "start_failed",
            f"the {what} {folder} can't be used: user {os.geteuid()} may not write into {nearest}",
            "Change its owner or mode, or name another",
        )
