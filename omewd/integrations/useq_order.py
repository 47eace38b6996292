"""Finds an order of a stream's dimensions in which the frame indexes of a useq sequence's events grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations

from omewd.errors import OmewdError

_Index = tuple[int, ...]


def _orders(axes: list[str]) -> Iterator[tuple[str, ...]]:
    """The orders to try, the sequence's own first. p and g stay together, because they become one dimension."""
    for order in permutations(axes):
        if "p" not in order or "g" not in order or abs(order.index("p") - order.index("g")) == 1:
            yield order


def order_of_product(axes: list[str], counts: Mapping[str, int | None], endless: bool) -> tuple[str, ...]:
    """The order for a sequence that visits the whole product of its axes; axes with one element may be anywhere."""
    real = [axis for axis in axes if counts[axis] != 1]
    if endless and real[0] != "t":
        raise no_grid(
            f"t is unbounded, but {real[0]} comes before it in the axis_order {''.join(axes)}",
            f'Put t first, as in axis_order "t{"".join(axes).replace("t", "")}"',
        )
    for order in _orders(axes):
        if [axis for axis in order if counts[axis] != 1] == real and not (endless and order[0] != "t"):
            return order
    raise no_grid(
        f"the axis_order {''.join(axes)} has another axis between p and g, but stage positions and tiles are one "
        "dimension",
        'Put them side by side, as in axis_order "tpgcz"',
    )


def order_of_events(
    events: Iterable[Mapping[str, int]], axes: list[str], channel_numbers: tuple[tuple[int, ...], ...], endless: bool
) -> tuple[tuple[str, ...], Mapping[str, int] | None]:
    """The first order in which each event comes after the one before it, and the last event's index."""
    # One pair of events for each pattern of axes that grow (1), stay (0) or fall (-1) from an event to the next.
    steps: dict[_Index, tuple[Mapping[str, int], Mapping[str, int]]] = {}
    before: Mapping[str, int] | None = None
    for event in events:
        if before is not None:
            here, there = _numbered(before, channel_numbers), _numbered(event, channel_numbers)
            step = tuple((there.get(a, 0) > here.get(a, 0)) - (there.get(a, 0) < here.get(a, 0)) for a in axes)
            steps.setdefault(step, (before, event))
        before = event
    for order in _orders(axes):
        if not (endless and order[0] != "t") and all(_grows(step, axes, order) for step in steps):
            return order, before
    own = next(_orders(axes))
    first, second = next(pair for step, pair in steps.items() if not _grows(step, axes, own))
    raise no_grid(
        f"frames can't go back in the order {''.join(own)}, but {index_text(second)} comes after {index_text(first)}",
        "Give all positions the same plans in the sequence itself, or put channels and z_plan into each position's own "
        "sequence beside its grid_plan, or give dimensions of your own to record frames as they come",
    )


def _numbered(index: Mapping[str, int], channel_numbers: tuple[tuple[int, ...], ...]) -> Mapping[str, int]:
    """An event's index, with its channel numbered among the channels of all positions."""
    if "c" not in index:
        return index
    return {**index, "c": channel_numbers[index.get("p", 0)][index["c"]]}


def _grows(step: _Index, axes: list[str], order: tuple[str, ...]) -> bool:
    """Whether a step goes forward in an order, that is, the first axis that changes grows."""
    changes = (step[axes.index(axis)] for axis in order)
    return next((change for change in changes if change), 0) > 0


def no_grid(message: str, remedy: str) -> OmewdError:
    return OmewdError("bad_spec", f"the sequence is not a grid: {message}", remedy)


def index_text(index: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={number}" for axis, number in index.items())
