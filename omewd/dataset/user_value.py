"""What a client gives as metadata of a dataset, checked: whoever reads it must get through it."""

from __future__ import annotations

import json
from typing import Any

from omewd.errors import OmewdError

_MAX_DEPTH = 64


def annotation(text: bytes) -> Any:
    """The value that JSON text is; raises OmewdError ``bad_metadata``."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise OmewdError("bad_metadata", f"metadata has to be JSON: {error}") from error
    if _depth(value) > _MAX_DEPTH:
        raise OmewdError("bad_metadata", f"metadata is nested up to {_MAX_DEPTH} deep, this is deeper")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON has")


def _depth(value: object) -> int:
    """How deeply a JSON value is nested; it may be deeper than Python would recurse."""
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
