"""Gathers values of any type, mostly numbers, into numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_DTYPES: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}
_MISSING = {"f": np.nan, "O": None}


class Column:
    """A column with at most one value for each row, gathered in blocks that are kept as arrays.

    Integers become int64, mixed floats and integers float64, booleans bool, and all other values objects. ``dtype``:
    for a column without values.
    """

    def __init__(self, dtype: type = object) -> None:
        self._empty_dtype = dtype
        self._types: set[type] = set()
        self._rows: list[Array] = []
        self._values: list[Array] = []

    def add(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Add the values of some rows, which must be new ones."""
        types = set(map(type, values))
        self._types |= types
        self._rows.append(np.array(rows, np.int64))
        self._values.append(_array(values, types.pop() if len(types) == 1 else object))

    def array(self, rows: int) -> Array:
        """The whole column. Missing values are NaN for floats, None for objects, masked for integers and bools."""
        dtype: type = object
        if not self._types:
            dtype = self._empty_dtype
        elif len(self._types) == 1:
            [only] = self._types
            dtype = _DTYPES.get(only, object)
        elif self._types == {int, float}:
            dtype = np.float64
        try:
            return self._filled(rows, dtype)
        except OverflowError:  # an integer is too large
            return self._filled(rows, object)

    def _filled(self, rows: int, dtype: type) -> Array:
        kind = np.dtype(dtype).kind
        column: Array = np.full(rows, _MISSING.get(kind, 0), dtype)
        for places, values in zip(self._rows, self._values, strict=True):
            column[places] = _array(values.tolist(), object) if dtype is object else values
        if kind in _MISSING or sum(map(len, self._rows)) == rows:
            return column
        missing = np.ones(rows, bool)
        for places in self._rows:
            missing[places] = False
        return np.ma.MaskedArray(column, missing)


def _array(values: Sequence[Any], of: type) -> Array:
    try:
        if of in _DTYPES:
            return np.array(values, _DTYPES[of])
    except OverflowError:
        pass
    return np.fromiter(values, object, len(values))  # np.array would turn lists into axes
