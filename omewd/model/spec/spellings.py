"""Dtypes and paths in any spelling that users may give."""

from __future__ import annotations

import os
from typing import Any

from omewd.model.dtypes import ITEM_BYTES


def dtype_name(value: Any) -> str:
    """The name of a dtype given in any spelling that numpy knows; numpy is only imported for unusual ones."""
    if isinstance(value, str) and value in ITEM_BYTES:
        return value
    if value is None:  # numpy would take it as float64
        raise ValueError("not a dtype")
    import numpy as np

    try:
        name: str = np.dtype(value).name
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:
        raise ValueError(f"not a dtype: {error}") from error
    if name not in ITEM_BYTES:
        raise ValueError(f"pixels of dtype {name} can't be stored; use one of {', '.join(ITEM_BYTES)}")
    return name


def path_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def is_uint8(value: Any) -> bool:
    try:
        return dtype_name(value) == "uint8"
    except ValueError:
        return False  # the field's own validation reports it
