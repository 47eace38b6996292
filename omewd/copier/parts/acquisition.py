"""What all parts of an acquisition have in common. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec

# What each daemon decides for itself: it changes nothing of what is in the copy.
_OWN = frozenset(
    {
        "output",
        "backend",
        "backpressure",
        "durability",
        "on_producer_loss",
        "on_disk_full",
        "own_sources",
        "overwrite",
        "expect_fps",
        "ring_slots",
        "copy_to",
        "copy_limit",
        "copy_live",
        "copy_evict",
    }
)
_MOST_TEXT = 80
_MOST_TOLD = 3


def common_of(spec: StreamSpec) -> dict[str, Any]:
    """The fields of a specification that must be the same in all parts."""
    return {name: value for name, value in spec.model_dump(mode="json").items() if name not in _OWN}


def whole_of(common: dict[str, Any]) -> StreamSpec:
    """The specification of the acquisition with all sources; raises OmewdError ``bad_spec``."""
    return stored_spec({name: value for name, value in common.items() if name not in _OWN})


def difference(mine: Any, theirs: Any) -> str:
    """The first differences of two specifications, for people; "" if there is none."""
    return "; ".join(islice(_differences(mine, theirs, ""), _MOST_TOLD))


def _differences(mine: Any, theirs: Any, at: str) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            yield from _differences(mine.get(name), theirs.get(name), f"{at}.{name}".lstrip("."))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(*pair, f"{at}[{number}]")
    elif mine != theirs:
        yield f"{at} is {_short(mine)} here and {_short(theirs)} there"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"


def names_of(whole: StreamSpec, elements: tuple[int, ...]) -> tuple[str, ...]:
    """The names of elements of the source dimension."""
    return tuple(whole.source_names[element] for element in elements)
