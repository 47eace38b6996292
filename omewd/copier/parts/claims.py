"""Who may copy which sources of an acquisition: decided by what the store holds, so that two never copy the same. Pure.

A part puts its claim into the store, and then lists the claims of all. It goes on only if none is in its way, and then
*settles*: it puts the acquisition, and one object for each of its sources that says whose it is. Of two parts that are
in each other's way, each has put its claim before it lists, so at least one sees the other (object stores list what was
put before). Who sees

- one that has settled, has lost;
- one with a lower epoch, has lost;
- one with a higher epoch that has not settled, waits: that one either had listed before, and settles, or sees this one,
  and has lost.

Who has lost removes its claim. So never do both go on, and if both start at once, one of them does. Where the store
takes an object only if there is none at its path (conditional puts), that holds even if its listings lag behind: the
objects that settle are put so, and read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from omewd.copier.parts.acquisition import difference
from omewd.model.record import Record

MAJOR, MINOR = 1, 0


@dataclass(frozen=True, eq=False)
class Claim(Record):
    """The sources of a part, by their elements of the source dimension. ``host``: the machine, for people."""

    major: int = MAJOR
    minor: int = MINOR
    epoch: int = 0
    host: str = ""
    sources: tuple[int, ...] = ()
    acquisition: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Owner(Record):
    """Whose an element of the source dimension is."""

    epoch: int = 0


class Step(Enum):
    SETTLE = auto()
    WAIT = auto()
    LOST = auto()


@dataclass(frozen=True)
class Verdict:
    """What a part has to do. ``why``: what is in its way."""

    step: Step
    why: str = ""


def is_settled(claim: Claim, owners: Mapping[int, int]) -> bool:
    """Whether a part has settled. ``owners``: the epoch of the part that has an element, where one has."""
    return all(owners.get(element) == claim.epoch for element in claim.sources)


def decide(
    mine: Claim,
    others: Iterable[Claim],
    owners: Mapping[int, int],
    acquisition: dict[str, Any] | None,
    names: Mapping[int, str],
) -> Verdict:
    """What follows from the claims of others. ``acquisition``: the one that is settled. ``names``: of the elements."""
    if acquisition is not None and (text := difference(mine.acquisition, acquisition)):
        return Verdict(Step.LOST, f"it is of another acquisition: {text}")
    hosts = {other.epoch: other.host for other in others}
    for element in mine.sources:
        if (epoch := owners.get(element, mine.epoch)) != mine.epoch:
            return Verdict(Step.LOST, _taken(names[element], hosts.get(epoch, ""), epoch))
    if acquisition is not None and is_settled(mine, owners):
        return Verdict(Step.SETTLE)
    waits_for = ""
    for other in others:
        if not (why := _in_the_way(mine, other, names)):
            continue
        if is_settled(other, owners) or other.epoch < mine.epoch:
            return Verdict(Step.LOST, why)
        waits_for = waits_for or why
    return Verdict(Step.WAIT, waits_for) if waits_for else Verdict(Step.SETTLE)


def _in_the_way(mine: Claim, other: Claim, names: Mapping[int, str]) -> str:
    if text := difference(mine.acquisition, other.acquisition):
        return f"{_who(other.host, other.epoch)} copies another acquisition there: {text}"
    both = sorted({*mine.sources} & {*other.sources})
    return _taken(names[both[0]], other.host, other.epoch) if both else ""


def _taken(name: str, host: str, epoch: int) -> str:
    return f"source {name!r} is copied there by {_who(host, epoch)}"


def _who(host: str, epoch: int) -> str:
    return f"a dataset of epoch {epoch}{f' on {host}' if host else ''}"
