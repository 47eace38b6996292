"""What is wrong with a configuration, found without starting anything: ``omewd serve --check``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from omewd.daemon.config import ServeConfig
from omewd.daemon.control.server import group_id, require_address
from omewd.daemon.processes import shared_memory
from omewd.errors import OmewdError

_SHARED_MEMORY = Path("/dev/shm")


def problems(config: ServeConfig) -> Iterator[OmewdError]:
    """Everything that would keep a daemon from starting with this configuration, or from working as it says."""
    checks: list[Callable[[], object]] = [
        partial(require_memory, config.memory_bytes),
        partial(_require_shared_memory, config.memory_bytes),
    ]
    folders = [(root, "data root") for root in config.data_roots]
    folders += [(config.state_dir, "state directory"), (config.socket.parent, "folder of the socket")]
    checks += [partial(_require_writable, folder, what) for folder, what in folders]
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
    limits = {"the machine has": shared_memory.total_memory_bytes(), "its cgroup may use": shared_memory.cgroup_bytes()}
    for whose, limit in limits.items():
        if limit is not None and budget_bytes > limit:
            raise OmewdError(
                "start_failed",
                f"--memory is {budget_bytes / 2**30:.1f} GiB, but {whose} {limit / 2**30:.1f} GiB",
                "Leave some for the system and the page cache; half of the memory is a good start",
            )


def _require_shared_memory(budget_bytes: int) -> None:
    size = os.statvfs(_SHARED_MEMORY)
    has = size.f_blocks * size.f_frsize
    if budget_bytes > has:
        raise OmewdError(
            "start_failed",
            f"--memory is {budget_bytes / 2**30:.1f} GiB, but {_SHARED_MEMORY} has {has / 2**30:.1f} GiB in all",
            f"Enlarge it (mount -o remount,size={-(-budget_bytes >> 30)}G {_SHARED_MEMORY}), or lower --memory",
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
