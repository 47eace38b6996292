"""Converts frozen dataclasses to JSON objects and back. Reading is tolerant, so that minor versions are compatible.

Unknown fields are ignored. Missing ones get their default, so every field needs one. A field's type is one that JSON
has, another record, or ``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]`` or ``X | None`` of these.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

Reader = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Record:
    """The base of values that cross process borders as JSON objects."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as values for :mod:`json`."""
        return {name: v if type(v) in _SCALARS else _plain(v) for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` of any minor version returned; raises ValueError for any other shape."""
        if not isinstance(value, dict):
            raise ValueError(f"{cls.__name__} must be a JSON object, not a {type(value).__name__}")
        known = {}
        for name, read in _readers(cls):
            if name in value:
                known[name] = read(value[name])
        return cls(**known)


_SCALARS = frozenset({int, str, float, bool, type(None)})
# Cached by class, because inspecting annotations is slow and a status has many records.
_NAMES: dict[type[Record], tuple[str, ...]] = {}
_READERS: dict[type[Record], tuple[tuple[str, Reader], ...]] = {}


def _plain(value: object) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _names(kind: type[Record]) -> tuple[str, ...]:
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind))
    return _NAMES[kind]


def _readers(kind: type[Record]) -> tuple[tuple[str, Reader], ...]:
    if kind not in _READERS:
        hints = typing.get_type_hints(kind)
        _READERS[kind] = tuple((name, _reader(hints[name])) for name in _names(kind))
    return _READERS[kind]


def _reader(kind: Any) -> Reader:
    """The function that reads a value of a type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        [some] = [_reader(each) for each in inner if each is not types.NoneType]
        return lambda value: None if value is None else some(value)
    if origin is tuple and inner[-1] is Ellipsis:
        each = _reader(inner[0])
        return lambda value: tuple(each(item) for item in _of(list, value))
    if origin is tuple:
        readers = [_reader(one) for one in inner]
        return lambda value: tuple(read(item) for read, item in zip(readers, _of(list, value), strict=True))
    if origin is dict:
        of_value = _reader(inner[1])
        return lambda value: {key: of_value(item) for key, item in _of(dict, value).items()}
    if isinstance(kind, type) and is_dataclass(kind) and issubclass(kind, Record):
        return kind.from_json
    if kind is float:
        return lambda value: float(_of((int, float), value))
    if kind in (int, str, bool):
        return lambda value: _of(kind, value)
    return lambda value: value


def _of(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r:.80} is not a {kind}")
    return value
