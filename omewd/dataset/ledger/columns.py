"""Values of any kind, most of which are numbers, as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_DTYPES: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}
_MISSING = {"f": np.nan, "O": None}


class Column:
    """One value a row at most, gathered in blocks, of which each is kept as an array.

    Integers become int64, floats and integers together float64, truth values bool, all else objects. ``dtype``: of a
    column without any value.
    """

    def __init__(self, dtype: type = object) -> None:
        self._empty_dtype = dtype
        self._types: set[type] = set()
        self._rows: list[Array] = []
        self._values: list[Array] = []

    def add(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """The values of some rows, other ones than those before."""
        types = set(map(type, values))
        self._types |= types
        self._rows.append(np.array(rows, np.int64))
        self._values.append(_array(values, types.pop() if len(types) == 1 else object))

    def array(self, rows: int) -> Array:
        """All of them; where there is none: NaN among floats, None among objects, masked among integers and bools."""
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
    return np.fromiter(values, object, len(values))  # np.array would make axes of lists
