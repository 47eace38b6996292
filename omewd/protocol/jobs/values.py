"""Typed values to and from JSON: a class's annotations say what its fields must look like in a message.

Known are ``int`` (0 to 2**63 - 1), ``AnyInt``, ``float`` (finite), ``str``, ``bool``, ``None``, unions of these,
``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]``, ``Any``, dataclasses made of them, and :class:`Histogram`. The one
field of type ``bytes`` is no part of the JSON: it is the attachment that travels beside the message.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

from omewd.errors import OmewdError
from omewd.model.waits import Histogram, bucket_of

# A number that users give, which may be negative or of any size.
AnyInt = Annotated[int, "any"]

_END = 2**63
_BUCKETS = frozenset(range(bucket_of(_END) + 1))
Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class Wire:
    """A value that crosses the border between processes as a JSON object, with bytes attached where it has some."""

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON has them, without the attachment."""
        # Not asdict: that copies a mapping value by value, and gives up on one that is nested deeply.
        shape = _shape_of(type(self))
        values = {name: getattr(self, name) for name in shape.names}
        for name, write in shape.writers.items():
            values[name] = write(values[name])
        return values

    @property
    def attachment(self) -> bytes:
        """What travels beside the message; empty where there is nothing."""
        name = _shape_of(type(self)).attached
        value: bytes = getattr(self, name) if name else b""
        return value

    @classmethod
    def from_json(cls, values: object, attachment: bytes = b"") -> Self:
        """The value that :meth:`to_json` has taken apart; raises OmewdError ``bad_message`` for anything else."""
        shape = _shape_of(cls)
        if not isinstance(values, dict) or len(values) != len(shape.readers):
            raise _unfit(cls, f"an object with the keys {', '.join(shape.names) or '(none)'}")
        try:
            typed = {name: read(values[name]) for name, read in shape.readers}
        except (KeyError, ValueError, OverflowError) as error:
            raise _unfit(cls, f"{shape.first_unfit(values)}: {error}") from error
        if shape.attached:
            typed[shape.attached] = attachment
        return cls(**typed)


def _unfit(cls: type, why: str) -> OmewdError:
    return OmewdError("bad_message", f"this is no {cls.__name__}: {why}"[:500])


@dataclass(frozen=True)
class _Shape:
    """How a class is read and written. ``writers``: of the fields that JSON does not take as they are."""

    names: tuple[str, ...]
    readers: tuple[tuple[str, Reader], ...]
    writers: Mapping[str, Callable[[Any], Any]]
    attached: str

    def first_unfit(self, values: dict[str, Any]) -> str:
        """The name of the first field that can't be read."""
        for name, read in self.readers:
            try:
                read(values[name])
            except (KeyError, ValueError, OverflowError):
                return name
        return "nothing"


_SHAPES: dict[type, _Shape] = {}


def _shape_of(cls: type) -> _Shape:
    shape = _SHAPES.get(cls)
    if shape is None:
        shape = _SHAPES[cls] = _make_shape(cls)
    return shape


def _make_shape(cls: type) -> _Shape:
    hints = get_type_hints(cls, include_extras=True)
    own = {field.name: hints[field.name] for field in fields(cls)}
    attached = [name for name, kind in own.items() if kind is bytes]
    assert len(attached) <= 1, f"{cls.__name__} has one attachment at most"
    plain = {name: kind for name, kind in own.items() if kind is not bytes}
    return _Shape(
        tuple(plain),
        tuple((name, _reader_of(kind)) for name, kind in plain.items()),
        {name: _written for name, kind in plain.items() if _needs_writing(kind)},
        attached[0] if attached else "",
    )


# -- reading ---------------------------------------------------------------------------------------


def _reader_of(kind: Any) -> Reader:
    if kind in _READERS:
        return _READERS[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _either([_reader_of(argument) for argument in arguments])
    if origin is tuple:
        if arguments[-1] is ...:
            return _floats if arguments[0] is float else _many(_reader_of(arguments[0]))
        return _row([_reader_of(argument) for argument in arguments])
    if origin is dict:
        return _mapping(_reader_of(arguments[1]))
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _object(kind)
    raise TypeError(f"{kind} has no form in a message")


def _no(value: Any, what: str) -> ValueError:
    return ValueError(f"{str(value)[:40]!r} is no {what}")


def _integer(value: Any) -> int:
    if type(value) is int and 0 <= value < _END:
        return value
    raise _no(value, "number from 0 to 2**63 - 1")


def _any_integer(value: Any) -> int:
    if type(value) is int:
        return value
    raise _no(value, "whole number")


def _float(value: Any) -> float:
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise _no(value, "finite number")


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    raise _no(value, "text")


def _flag(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise _no(value, "truth value")


def _nothing(value: Any) -> None:
    if value is not None:
        raise _no(value, "null")


def _histogram(value: Any) -> Histogram:
    try:
        longest_ns, *pairs = value
        counts = dict(pairs)
        total = sum(counts.values(), longest_ns)  # of whole numbers only is it one
    except (TypeError, ValueError) as error:
        raise _no(value, "histogram") from error
    if type(total) is not int or not counts.keys() <= _BUCKETS:
        raise _no(value, "histogram")
    return Histogram(counts, longest_ns)


_READERS: dict[Any, Reader] = {
    int: _integer,
    AnyInt: _any_integer,
    float: _float,
    str: _text,
    bool: _flag,
    type(None): _nothing,
    Any: lambda value: value,
    Histogram: _histogram,
}


def _list(value: Any) -> list[Any]:
    if type(value) is list:
        return value
    raise _no(value, "list")


def _floats(value: Any) -> tuple[float, ...]:
    """As many numbers, checked all at once: a writer reports some with each job."""
    values = tuple(_list(value))
    if set(map(type, values)) <= {int, float} and all(map(math.isfinite, values)):
        return values
    raise _no(value, "list of finite numbers")


def _many(read: Reader) -> Reader:
    return lambda value: tuple(map(read, _list(value)))


def _row(readers: list[Reader]) -> Reader:
    count = len(readers)

    def read_row(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != count:
            raise _no(value, f"list of {count}")
        return tuple([read(inner) for read, inner in zip(readers, value, strict=True)])

    return read_row


def _mapping(read: Reader) -> Reader:
    def read_mapping(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _no(value, "object")
        return {key: read(inner) for key, inner in value.items()}  # JSON has no keys but texts

    return read_mapping


def _either(readers: list[Reader]) -> Reader:
    def read_either(value: Any) -> Any:
        for read in readers:
            try:
                return read(value)
            except ValueError:
                continue
        raise _no(value, "value of any of its types")

    return read_either


def _object(kind: type) -> Reader:
    shape = _shape_of(kind)

    def read_object(value: Any) -> Any:
        if type(value) is not dict or len(value) != len(shape.names):
            raise _no(value, f"object with the keys {', '.join(shape.names)}")
        return kind(**{name: read(value.get(name)) for name, read in shape.readers})

    return read_object


# -- writing ---------------------------------------------------------------------------------------


def _needs_writing(kind: Any) -> bool:
    """Whether JSON would not take values of this kind as they are."""
    return kind is Histogram or is_dataclass(kind) or any(_needs_writing(argument) for argument in get_args(kind))


def _written(value: Any) -> Any:
    if isinstance(value, Histogram):
        return value.pack()
    if isinstance(value, tuple | list):
        return [_written(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _written(inner) for key, inner in value.items()}
    if is_dataclass(value):
        return {field.name: _written(getattr(value, field.name)) for field in fields(value)}
    return value
