"""Values of any kind, most of which are numbers, as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Column:
    """One value a row at most, gathered in blocks, of which each is kept as an array.

    Numbers become int64 or float64, truth values bool, all else objects. ``kind``: of a column without any value, as
    numpy's one letter.
    """

    def __init__(self, kind: str = "O") -> None:
        self._kind = kind
        self._rows: list[Array] = []
        self._values: list[Array] = []

    def add(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """The values of some rows, other ones than those before."""
        if not values:
            return
        self._rows.append(np.array(rows, np.int64))
        self._values.append(_array(values))

    def array(self, rows: int) -> Array:
        """All of them; where there is none: NaN among floats, None among objects, masked among integers and bools."""
        kinds = {values.dtype.kind for values in self._values}
        kind = "f" if kinds == {"i", "f"} else kinds.pop() if len(kinds) == 1 else "O" if kinds else self._kind
        dtype = {"i": np.int64, "f": np.float64, "b": np.bool_, "O": object}[kind]
        column: Array = np.full(rows, {"f": np.nan, "O": None}.get(kind, 0), dtype)
        for places, values in zip(self._rows, self._values, strict=True):
            column[places] = _objects(values.tolist()) if kind == "O" else values
        if kind in "ib" and sum(map(len, self._rows)) < rows:
            missing = np.ones(rows, bool)
            for places in self._rows:
                missing[places] = False
            return np.ma.MaskedArray(column, missing)
        return column


def _array(values: Sequence[Any]) -> Array:
    kinds = set(map(type, values))
    try:
        if kinds == {bool}:
            return np.array(values, np.bool_)
        if kinds == {int}:
            return np.array(values, np.int64)
        if kinds == {float} or kinds == {int, float}:
            return np.array(values, np.float64)
    except OverflowError:
        pass
    return _objects(values)


def _objects(values: Sequence[Any]) -> Array:
    return np.fromiter(values, object, len(values))  # np.array would make axes of lists
