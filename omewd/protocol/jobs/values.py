"""Converts typed values to JSON and back. A class's annotations define the form of its fields in a message.

Supported types are ``int`` (0 to 2**63 - 1), ``AnyInt``, ``float`` (finite), ``str``, ``bool``, ``None``, unions of
these, ``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]``, ``Any``, dataclasses of them, and :class:`Histogram`. A
class may have one field of type ``bytes``. It is not part of the JSON but the attachment, which travels beside the
message.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

from omewd.errors import OmewdError
from omewd.model.waits import Histogram, bucket_of

# A number from users, which may be negative or of any size.
AnyInt = Annotated[int, "any"]

_END = 2**63
_BUCKETS = frozenset(range(bucket_of(_END) + 1))
Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class Wire:
    """A value that travels between processes as a JSON object, with an attachment if it has one."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, without the attachment."""
        # Not asdict, which copies mappings value by value and fails for deeply nested ones.
        shape = _shape_of(type(self))
        values = {name: getattr(self, name) for name in shape.names}
        for name, write in shape.writers.items():
            values[name] = write(values[name])
        return values

    @property
    def attachment(self) -> bytes:
        """The bytes that travel beside the message; empty if there are none."""
        name = _shape_of(type(self)).attached
        value: bytes = getattr(self, name) if name else b""
        return value

    @classmethod
    def from_json(cls, values: object, attachment: bytes = b"") -> Self:
        """Read what :meth:`to_json` returned; raises OmewdError ``bad_message`` for anything else."""
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
    return OmewdError("bad_message", f"not a {cls.__name__}: {why}"[:500])


@dataclass(frozen=True)
class _Shape:
    """How a class is read and written. ``writers``: for the fields that JSON does not take unchanged."""

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


def prepare() -> None:
    """Derive the form of every class defined by now. The first message of each would wait for it, 4 ms in all."""
    pending = Wire.__subclasses__()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        _shape_of(kind)


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
    return ValueError(f"{str(value)[:40]!r} is not a {what}")


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
    raise _no(value, "string")


def _flag(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise _no(value, "boolean")


def _nothing(value: Any) -> None:
    if value is not None:
        raise _no(value, "null")


def _histogram(value: Any) -> Histogram:
    try:
        longest_ns, *pairs = value
        counts = dict(pairs)
        total = sum(counts.values(), longest_ns)  # an int only if all numbers are
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
    """Any number of floats, checked together for speed: a writer reports some with each job."""
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
        return {key: read(inner) for key, inner in value.items()}  # JSON's keys are always strings

    return read_mapping


def _either(readers: list[Reader]) -> Reader:
    def read_either(value: Any) -> Any:
        for read in readers:
            try:
                return read(value)
            except ValueError:
                continue
        raise _no(value, "value of one of its types")

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
    """Whether values of this type must be converted for JSON."""
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
