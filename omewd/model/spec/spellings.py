"""Dtypes, paths and URLs in the spellings that users may give.

The daemon reads specifications, too. So what JSON can say is read without numpy: its import takes 0.1 s and starts
threads, and its parser of dtypes is no match for a hostile client.
"""

from __future__ import annotations

import os
import re
from typing import Any

from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.dtypes import ITEM_BYTES

_LETTERS = {
    "b": "int8",
    "h": "int16",
    "i": "int32",
    "l": "int64",
    "q": "int64",
    "B": "uint8",
    "H": "uint16",
    "I": "uint32",
    "L": "uint64",
    "Q": "uint64",
    "e": "float16",
    "f": "float32",
    "d": "float64",
}
# numpy's kind and bytes, such as u2, or one of its letters.
_SHORT = {**{f"{name[0]}{size}": name for name, size in ITEM_BYTES.items()}, **_LETTERS}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BYTE_ORDERS = ("<", ">", "=", "|")


def stream_name(text: str) -> str:
    """The name of a stream, which becomes a part of names of files and of shared memory."""
    if not _NAME.fullmatch(text):
        raise ValueError("it must be 1 to 64 letters, digits, - and _")
    return text


def copy_url(text: str) -> str:
    """The URL of a copy. What may be a secret in it is not repeated in the error."""
    try:
        return Address.parse(text).url
    except OmewdError as error:
        raise ValueError(f"{error.message}. {error.remedy}") from None


def dtype_name(value: Any) -> str:
    """The name of a dtype, given as its name, in short (``u2``, ``<u2``), or as a type or dtype of numpy."""
    name = value
    if isinstance(value, str):
        name = _SHORT.get(value[value.startswith(_BYTE_ORDERS) :], value)
    elif value is None or isinstance(value, int | float | list | tuple | dict):  # numpy takes None as float64
        raise ValueError("not a dtype")
    else:
        import numpy as np

        try:
            name = np.dtype(value).name
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a dtype: {error}") from error
    if name not in ITEM_BYTES:
        raise ValueError(f"pixels of dtype {name[:40]!r} can't be stored; use one of {', '.join(ITEM_BYTES)}")
    return str(name)


def path_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def is_uint8(value: Any) -> bool:
    try:
        return dtype_name(value) == "uint8"
    except ValueError:
        return False  # the field's own validation reports it
