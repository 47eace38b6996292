"""What programs give (numpy's numbers, paths, models) as the plain values that JSON has. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from omewd.errors import OmewdError


def plain(value: Any) -> Any:
    """One value that JSON does not know, as one that it does, for ``json.dumps(default=)``.

    Taken are numpy's numbers, arrays and dtypes, paths, and models (as their fields). Raises TypeError for all else.
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


def numbers_in(value: Any) -> Any:
    """The same with numpy's numbers and arrays in it, at any depth of lists and dicts, as Python's; the rest stays."""
    if isinstance(value, dict):
        return {key: numbers_in(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(numbers_in, value)) if type(value) in (list, tuple) else value
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def json_of(value: Any) -> bytes:
    """A value as JSON, numpy's numbers and arrays too; raises OmewdError ``bad_metadata`` for what JSON lacks."""
    try:
        return json.dumps(_with_text_keys(value), separators=(",", ":"), allow_nan=False, default=plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise OmewdError(
            "bad_metadata",
            f"a stream's metadata must be JSON-able: {error}"[:500],
            "Give strings, finite numbers, booleans, None, lists and mappings with strings as keys",
        ) from error


def _with_text_keys(value: Any) -> Any:
    """The same; json would make strings of other keys."""
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            raise TypeError(f"the key {odd!r:.80} is no string")
        return {key: _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list | tuple) else value
