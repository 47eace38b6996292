"""What is asked of an adder."""

from __future__ import annotations

from dataclasses import dataclass

from omewd.protocol.jobs.job import Job, Needs, Result

ADDER = "adder"


@dataclass(frozen=True)
class Sum(Result):
    total: int
    pid: int


@dataclass(frozen=True)
class Add(Job):
    """Add numbers. ``dies_without``: a file; if it is not there it is made, and the adder dies."""

    kind = "add"
    needs = Needs(ADDER)
    result = Sum

    numbers: tuple[int, ...]
    dies_without: str = ""
