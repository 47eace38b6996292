"""A profile of one thread, in the form of cProfile's.

From Python 3.12 on, cProfile keeps one call stack for all threads, so it attributes calls to the wrong thread and loses
some. ``sys.setprofile`` is separate for each thread.
"""

from __future__ import annotations

import time
from collections import Counter
from types import FrameType, ModuleType
from typing import Any

# (file, line, name) as in pstats; functions in C have the file "~" and the line 0.
Function = tuple[str, int, str]


class _Cost:
    """The cost of all calls of a function, in seconds. ``primitive``: the number of calls that are not recursive."""

    __slots__ = ("calls", "cumulative_s", "own_s", "primitive")

    def __init__(self) -> None:
        self.calls, self.primitive, self.own_s, self.cumulative_s = 0, 0, 0.0, 0.0

    def add(self, own_s: float, total_s: float, *, primitive: bool) -> None:
        self.calls += 1
        self.own_s += own_s
        if primitive:
            self.primitive += 1
            self.cumulative_s += total_s


class ThreadProfile:
    """A profiler for ``sys.setprofile``, and later for ``pstats.Stats``."""

    def __init__(self) -> None:
        self.stats: dict[Function, Any] = {}
        self._open: list[tuple[Function, float]] = []
        self._inner_s: list[float] = []  # for each open call, the time in calls that it made
        self._depth: Counter[Function] = Counter()
        self._functions: dict[Function, _Cost] = {}
        self._callers: dict[tuple[Function, Function], _Cost] = {}

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        now_s = time.perf_counter()
        if event == "call":
            code = frame.f_code
            self._enter((code.co_filename, code.co_firstlineno, code.co_name), now_s)
        elif event == "c_call":
            self._enter(("~", 0, _name(called)), now_s)
        elif self._open:  # otherwise the call began before the profile
            self._leave(now_s)

    def _enter(self, function: Function, now_s: float) -> None:
        self._open.append((function, now_s))
        self._inner_s.append(0.0)
        self._depth[function] += 1

    def _leave(self, now_s: float) -> None:
        function, began_s = self._open.pop()
        total_s = now_s - began_s
        own_s = total_s - self._inner_s.pop()
        self._depth[function] -= 1
        primitive = not self._depth[function]
        self._functions.setdefault(function, _Cost()).add(own_s, total_s, primitive=primitive)
        if self._open:
            self._inner_s[-1] += total_s
            edge = (function, self._open[-1][0])
            self._callers.setdefault(edge, _Cost()).add(own_s, total_s, primitive=primitive)

    def create_stats(self) -> None:
        """Put the measurements so far into ``stats``, in the form of pstats. The thread may go on."""
        callers: dict[Function, dict[Function, tuple[int, int, float, float]]] = {}
        for (function, caller), cost in list(self._callers.items()):
            edge = (cost.calls, cost.primitive, cost.own_s, cost.cumulative_s)
            callers.setdefault(function, {})[caller] = edge
        self.stats = {
            function: (cost.primitive, cost.calls, cost.own_s, cost.cumulative_s, callers.get(function, {}))
            for function, cost in list(self._functions.items())
        }


def _name(called: Any) -> str:
    """The name of a built-in function, as in cProfile."""
    owner = getattr(called, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        module = getattr(called, "__module__", None) or "builtins"
        return f"<built-in method {module}.{called.__name__}>"
    return f"<method '{called.__name__}' of '{type(owner).__name__}' objects>"
