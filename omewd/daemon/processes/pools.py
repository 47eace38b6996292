"""All children of the daemon, in one pool for each role."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omewd.daemon.loop import Loop
from omewd.daemon.processes.child import Child, Place
from omewd.daemon.processes.pool import OnDeath, OnMessage, Pool
from omewd.daemon.processes.roles import Role
from omewd.protocol.messages import Message


class Pools:
    """The pools of all roles. ``roles``: by name."""

    def __init__(self, loop: Loop, roles: Iterable[Role], place: Place) -> None:
        self._scratch = place.scratch
        numbers = itertools.count(1)
        self._pools = {role.name: Pool(loop, role, place, numbers) for role in roles}

    @property
    def roles(self) -> Mapping[str, Role]:
        return {name: pool.role for name, pool in self._pools.items()}

    def start(self, on_message: OnMessage, on_death: OnDeath) -> None:
        """Start the children. ``on_message`` and ``on_death`` are called for their messages and deaths."""
        for pool in self._pools.values():
            pool.start(on_message, on_death)

    # -- looking up ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Child]:
        """All children except those that are leaving."""
        for pool in self._pools.values():
            yield from (child for child in pool.children.values() if not child.leaving)

    def child(self, number: int | None) -> Child | None:
        """The child with an id; None if there is none."""
        return next((child for child in self if child.id == number), None)

    def ready(self) -> dict[str, list[int]]:
        """The ids of the children that take jobs, by role."""
        return {name: pool.ready for name, pool in self._pools.items()}

    def of(self, role: str) -> Pool:
        return self._pools[role]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts from the ready messages of all roles."""
        return {name: fact for pool in self._pools.values() for name, fact in pool.facts.items()}

    @property
    def broken(self) -> str | None:
        """The name of a role that the daemon needs but can't start children of; None if there is none."""
        return next((name for name, pool in self._pools.items() if pool.broken), None)

    @property
    def outdated(self) -> set[str]:
        """The roles without children, and without new ones because omewd was upgraded on disk."""
        return {name for name, pool in self._pools.items() if pool.is_outdated}

    def must_restart(self, *, at_work: bool) -> bool:
        """Whether omewd was upgraded on disk and a role with jobs has no children left.

        ``at_work``: there are streams to go on with. The jobs of a role on demand wait for their end.
        """
        pools = [pool for pool in self._pools.values() if pool.is_outdated and pool.is_wanted]
        return any(not pool.role.on_demand for pool in pools) or (bool(pools) and not at_work)

    @property
    def awaited(self) -> Pool | None:
        """A pool without a ready child, which the daemon needs in order to start; None if there is none."""
        fixed = (pool for pool in self._pools.values() if not pool.role.on_demand)
        return next((pool for pool in fixed if not pool.any_ready), None)

    # -- the turn of the loop --------------------------------------------------------------------

    @property
    def next_ns(self) -> int | None:
        """When the next child may be started after one that has failed; None if none is lacking."""
        times = (pool.next_start_ns for pool in self._pools.values())
        return min((time_ns for time_ns in times if time_ns is not None), default=None)

    def tend(self, wanted: Mapping[str, int], now_ns: int) -> None:
        """Kill late starters, and start and end children as needed. ``wanted``: the roles' jobs."""
        for name, pool in self._pools.items():
            pool.end_late_starters(now_ns)
            pool.want(wanted.get(name, 0))
            pool.fill()

    def tell(
        self, child: Child, message: Message, descriptors: tuple[int, ...] = (), *, attachment: bytes = b""
    ) -> None:
        self._pools[child.role.name].tell(child, message, descriptors, attachment=attachment)

    def close(self, timeout_s: float = 5.0) -> None:
        """End all children. They exit when their channel closes; one that does not is killed."""
        deadline_s = time.monotonic() + timeout_s
        for pool in self._pools.values():
            pool.end()
        for pool in self._pools.values():
            pool.wait(deadline_s)
        shutil.rmtree(self._scratch, ignore_errors=True)
