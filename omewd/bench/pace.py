"""The progress of a benchmark's column, and whether there is time for another round. Pure: time is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """A column's own clock, which only runs during its turns. ``bytes_per_s``: pixels in its latest turn."""

    rounds: int
    done: int = 0
    spent_s: float = 0.0
    bytes_per_s: float | None = None
    _began_s: float | None = None

    def begin(self, now_s: float) -> None:
        self._began_s = now_s

    def end(self, now_s: float, bytes_per_s: float | None) -> None:
        """End a turn. ``bytes_per_s``: None if it failed, and the column has no more turns."""
        self.spent_s = self.elapsed_s(now_s)
        self._began_s = None
        if bytes_per_s is None:
            self.rounds = self.done
        else:
            self.done += 1
            self.bytes_per_s = bytes_per_s

    def elapsed_s(self, now_s: float) -> float:
        return self.spent_s + self._in_turn_s(now_s)

    def left_s(self, now_s: float) -> float | None:
        """How much longer the column's turns will take, by the turns so far; None before the first one has ended."""
        if self.done == self.rounds:
            return 0.0
        if not self.done:
            return None
        a_turn_s = self.spent_s / self.done
        return max((self.rounds - self.done) * a_turn_s - min(self._in_turn_s(now_s), a_turn_s), 0.0)

    def _in_turn_s(self, now_s: float) -> float:
        return now_s - self._began_s if self._began_s is not None else 0.0


def is_time_up(elapsed_s: float, rounds_done: int, limit_s: float | None) -> bool:
    """Whether another round, as long as the average one so far, would end past the limit."""
    return limit_s is not None and elapsed_s * (rounds_done + 1) / max(rounds_done, 1) > limit_s
