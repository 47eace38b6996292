"""In which order a stream's dimensions have to be for the events of a useq sequence to come one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations

from omewd.errors import OmewdError

_Index = tuple[int, ...]


def _orders(axes: list[str]) -> Iterator[tuple[str, ...]]:
    """The orders that can be tried, the sequence's own first; p and g become one dimension, and stay together."""
    for order in permutations(axes):
        if "p" not in order or "g" not in order or abs(order.index("p") - order.index("g")) == 1:
            yield order


def order_of_product(axes: list[str], counts: Mapping[str, int | None], endless: bool) -> tuple[str, ...]:
    """For a sequence that visits all of the product of its axes: those of one element may be anywhere."""
    real = [axis for axis in axes if counts[axis] != 1]
    if endless and real[0] != "t":
        raise no_grid(
            f"the times have no end, and {real[0]} is before them in the axis_order {''.join(axes)}",
            f'Put t first, as in axis_order "t{"".join(axes).replace("t", "")}"',
        )
    for order in _orders(axes):
        if [axis for axis in order if counts[axis] != 1] == real and not (endless and order[0] != "t"):
            return order
    raise no_grid(
        f"the axis_order {''.join(axes)} has another axis between p and g: stage positions and tiles are one dimension",
        'Put them side by side, as in axis_order "tpgcz"',
    )


def order_of_events(
    events: Iterable[Mapping[str, int]], axes: list[str], channel_numbers: tuple[tuple[int, ...], ...], endless: bool
) -> tuple[tuple[str, ...], Mapping[str, int] | None]:
    """The first order in which each event comes after the one before; and the last event's index."""
    # For each way in which the axes grow (1), stay (0) or fall (-1) from one event to the next, such a pair.
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
        f"in the order {''.join(own)} a frame can't go back, and after {index_text(first)} comes {index_text(second)}",
        "Give all positions the same plans in the sequence itself, or put channels and z_plan into each position's own "
        "sequence beside its grid_plan; or record the frames as they come, with dimensions of your own",
    )


def _numbered(index: Mapping[str, int], channel_numbers: tuple[tuple[int, ...], ...]) -> Mapping[str, int]:
    """An event's index with the number that its channel has among those of all positions."""
    if "c" not in index:
        return index
    return {**index, "c": channel_numbers[index.get("p", 0)][index["c"]]}


def _grows(step: _Index, axes: list[str], order: tuple[str, ...]) -> bool:
    """Whether a step goes forward in an order: the first axis that changes grows."""
    changes = (step[axes.index(axis)] for axis in order)
    return next((change for change in changes if change), 0) > 0


def no_grid(message: str, remedy: str) -> OmewdError:
    return OmewdError("bad_spec", f"the sequence makes no grid: {message}", remedy)


def index_text(index: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={number}" for axis, number in index.items())
