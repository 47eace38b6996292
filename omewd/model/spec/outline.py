"""A stream's specification in two parts: an outline, which is always small, and its details.

The details grow with the acquisition: names and coordinates of channels, positions and planes, and the plate. They
travel as text, which is parsed only where it is needed. So a request with 10,000 positions costs the daemon no more
than any other. Imports nothing heavy.
"""

from __future__ import annotations

import json
from typing import Any

from omewd.errors import OmewdError

# One source for each element; the daemon has to know their names.
MAX_SOURCES = 64
# An outline has at most six dimensions of ten fields, and about twenty other fields.
MAX_OUTLINE_VALUES = 1000
# Room for 10,000 positions with every field set.
MAX_SPEC_BYTES = 2**21

Fields = dict[str, Any]


def split(fields: Fields) -> tuple[Fields, bytes]:
    """Split a spec's fields into (the outline's fields, the details as JSON, empty if there are none).

    Values of the wrong type stay in the outline, where validation reports them.
    """
    outline, details = dict(fields), {}
    dims = fields.get("dimensions")
    if isinstance(dims, list):
        source, coords = fields.get("source_dimension"), {}
        outline["dimensions"] = dims = list(dims)
        for number, dim in enumerate(dims):
            given = dim.get("coords") if isinstance(dim, dict) else None
            if not isinstance(given, list) or (dim.get("name") == source and len(given) <= MAX_SOURCES):
                continue
            coords[str(number)] = given
            dims[number] = {name: value for name, value in dim.items() if name != "coords"}
            if dim.get("count") is None:
                dims[number]["count"] = len(given)
        if coords:
            details["coords"] = coords
    if isinstance(fields.get("plate"), dict):
        details["plate"] = outline.pop("plate")
    return outline, json.dumps(details, separators=(",", ":")).encode() if details else b""


def join(outline: Fields, details: bytes) -> Fields:
    """Join what :func:`split` took apart; raises OmewdError ``bad_spec`` if the two parts don't fit."""
    if not details:
        return outline
    try:
        found = json.loads(details.decode())
        fields = {**outline, **{name: value for name, value in found.items() if name == "plate"}}
        dims = [dict(dim) for dim in outline["dimensions"]] if found.get("coords") else outline["dimensions"]
        for number, coords in found.get("coords", {}).items():
            dims[int(number)]["coords"] = coords
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise OmewdError("bad_spec", f"the stream's details don't fit its outline: {str(error)[:200]}") from error
    return {**fields, "dimensions": dims}


def require_small(outline: Fields) -> None:
    """Raise OmewdError ``bad_spec`` if an outline has so many values that checking each would take long."""
    left, level = MAX_OUTLINE_VALUES, [outline]
    while level := [inner for outer in level for inner in _inside(outer)]:
        left -= len(level)
        if left < 0:
            raise OmewdError(
                "bad_spec",
                f"the specification is over the limit of {MAX_OUTLINE_VALUES} values, not counting coords and plate",
                "Leave out fields that streams don't have",
            )


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
