"""Measures what the cores can do without omewd: copy frames and compress chunks, on one core and on all at once."""

from __future__ import annotations

import os
from typing import Any

from omewd.bench.plan import Rates
from omewd.bench.run.child import Child
from omewd.errors import OmewdError

_TIMEOUT_S = 60.0


class Cores:
    """A process for each core that this one may use. They are started at the first measurement."""

    def __init__(self) -> None:
        self.count = len(os.sched_getaffinity(0))
        self._children: list[Child] = []
        self._prepared: dict[str, Any] = {}

    def prepare(self, **settings: Any) -> None:
        """Let the processes make their frames and chunks; see :mod:`omewd.bench.ceilings.core`. Raises OmewdError."""
        if not self._children:
            self._children = [Child("omewd.bench.ceilings.core", "measuring") for _ in range(self.count)]
        if settings != self._prepared:
            self._ask(self._children, "prepare", **settings)
            self._prepared = settings

    def copy(self) -> Rates:
        """The rate of copying frames into memory that is not cached; raises OmewdError."""
        return self._rates("copy")

    def compress(self, compression: str) -> Rates:
        """The rate of compressing chunks that lie ready; raises OmewdError."""
        return self._rates("compress", compression=compression)

    def _rates(self, verb: str, **settings: Any) -> Rates:
        [alone] = self._ask(self._children[:1], verb, **settings)
        together = self._ask(self._children, verb, **settings)
        return Rates(alone["gb_per_s"], sum(each["gb_per_s"] for each in together), alone["cpu_s_per_gb"])

    def _ask(self, children: list[Child], verb: str, **settings: Any) -> list[dict[str, float]]:
        """Ask several processes at once. If one fails, all are ended, since the others still have answers to give."""
        for child in children:
            child.tell(verb, **settings)
        try:
            return [child.answer(verb, _TIMEOUT_S) for child in children]
        except OmewdError:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the next measurement starts others."""
        for child in self._children:
            child.close()
        self._children.clear()
        self._prepared = {}
