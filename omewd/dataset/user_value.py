"""Checks users' metadata for a dataset, so that every reader can parse them."""

from __future__ import annotations

import json
from typing import Any

from omewd.errors import OmewdError

_MAX_DEPTH = 64


def parsed(text: bytes) -> Any:
    """Parse JSON text; raises OmewdError ``bad_metadata``."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise OmewdError("bad_metadata", f"metadata must be JSON: {error}") from error
    if _depth(value) > _MAX_DEPTH:
        raise OmewdError("bad_metadata", f"the metadata are nested more than {_MAX_DEPTH} deep", "Flatten them")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no number {constant}")


def _depth(value: object) -> int:
    """How deeply a JSON value is nested, without recursion: it may be deeper than Python recurses."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > _MAX_DEPTH:
            break
    return depth
