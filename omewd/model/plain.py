"""What programs give (numpy's numbers, paths, models) as the plain values that JSON has. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import Any


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
