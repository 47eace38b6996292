"""Convert what programs pass in (numpy numbers, paths, models) to JSON values. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from omewd.errors import OmewdError


def to_jsonable(value: Any) -> Any:
    """Convert one value that JSON lacks to one that it has, for ``json.dumps(default=)``.

    Takes numpy numbers, arrays and dtypes, paths, and models (as their fields). Raises TypeError for anything else.
    """
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, type) or (hasattr(value, "itemsize") and hasattr(value, "fields")):
        import numpy as np

        return np.dtype(value).name
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON-able")


def without_numpy(value: Any) -> Any:
    """Replace numpy numbers and arrays, at any depth of lists and dicts, with Python's; the rest stays as it is."""
    if isinstance(value, dict):
        return {key: without_numpy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_numpy, value)) if type(value) in (list, tuple) else value
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def to_json(value: Any) -> bytes:
    """Encode a value, with any numpy numbers and arrays, as JSON.

    Raises OmewdError ``bad_metadata`` for a value that JSON lacks.
    """
    try:
        return json.dumps(_with_text_keys(value), separators=(",", ":"), allow_nan=False, default=to_jsonable).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise OmewdError(
            "bad_metadata",
            f"a stream's metadata must be JSON-able: {error}"[:500],
            "Use strings, finite numbers, booleans, None, lists, and mappings with string keys",
        ) from error


def _with_text_keys(value: Any) -> Any:
    """The same value, checked: raises TypeError for a key that is not a string, which json would convert."""
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            raise TypeError(f"the key {odd!r:.80} is not a string")
        return {key: _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list | tuple) else value
