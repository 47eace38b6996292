"""Checks and converts what a camera's program passes in: frames, counts, time-outs, metadata."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omewd.errors import OmewdError

Metadata = Mapping[str, Any]

# The ledger records every write unit of gaps; skipping more at once is taken as a bug in the program.
MAX_SKIP = 1_000_000
# In seconds since the first frame, seconds, and the units of the space dimensions.
_KNOWN_METADATA = frozenset({"delta_t", "exposure_time", "position_x", "position_y", "position_z"})


def as_frame(frame: object) -> np.ndarray[Any, Any]:
    """Convert an object to an array; raises OmewdError ``bad_frame``."""
    try:
        return np.asarray(frame)
    except (TypeError, ValueError) as error:
        raise OmewdError(
            "bad_frame", f"a {type(frame).__name__} can't be made a frame: {error}", "Pass a numpy array"
        ) from error


def skip_count(frames: object) -> int:
    """The number of frames to skip, from an int of Python or numpy; raises OmewdError ``bad_frame``."""
    count = _whole(frames)
    if count is None or not 1 <= count <= MAX_SKIP:
        raise OmewdError(
            "bad_frame",
            f"skip takes a whole number of frames from 1 to {MAX_SKIP}, not {frames!r:.80}",
            "Pass an int, such as `producer.skip(3)`",
        )
    return count


def timeout_seconds(timeout: object) -> float | None:
    """A time-out in seconds, None for ever; raises OmewdError ``bad_timeout``."""
    if timeout is None:
        return None
    value = _real(timeout)
    if value is None or math.isnan(value):
        raise OmewdError(
            "bad_timeout",
            f"a time-out is a number of seconds, not {timeout!r:.80}",
            "Pass a number, such as `timeout=5.0`, or None to wait for ever",
        )
    return None if value == math.inf else max(value, 0.0)


def source_of(source: object) -> str | int | None:
    """The name or the number of a source; raises OmewdError ``unknown_source``."""
    if source is None or isinstance(source, str):
        return source
    number = _whole(source)
    if number is None:
        raise OmewdError(
            "unknown_source", f"{source!r:.80} is not a source", "Pass the source's name, or its number as an int"
        )
    return number


def one_metadata(metadata: object, limit: int) -> bytes:
    """A frame's metadata as JSON of at most ``limit`` bytes; raises OmewdError ``bad_metadata``."""
    check_mapping(metadata)
    return _encode(metadata, limit) if metadata else b""  # type: ignore[arg-type]


def block_metadata(metadata: object, count: int, limit: int) -> list[bytes]:
    """The metadata of ``count`` frames as JSON.

    ``metadata``: one mapping for all frames, or a sequence with a mapping or None for each. Raises OmewdError
    ``bad_metadata``.
    """
    if metadata is None or isinstance(metadata, Mapping):
        return [one_metadata(metadata, limit)] * count
    if not isinstance(metadata, Sequence) or isinstance(metadata, str | bytes | bytearray) or len(metadata) != count:
        size = f" of {len(metadata)}" if isinstance(metadata, Sequence) else ""
        raise OmewdError(
            "bad_metadata",
            f"the metadata of a block of {count} frames is a {type(metadata).__name__}{size}",
            f"Pass one mapping for all frames, or a sequence of {count} mappings",
        )
    return [one_metadata(each, limit) for each in metadata]


def check_mapping(metadata: object) -> None:
    """Raise OmewdError ``bad_metadata`` unless the metadata are a mapping or None."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise OmewdError(
            "bad_metadata",
            f"a frame's metadata is a mapping, not a {type(metadata).__name__}",
            "Pass a dict, such as `metadata={'exposure_time': 0.01}`",
        )


def _encode(metadata: Metadata, limit: int) -> bytes:
    for key in _KNOWN_METADATA & metadata.keys():
        number = _real(metadata[key])
        if number is None or not math.isfinite(number):
            raise OmewdError(
                "bad_metadata",
                f"a frame's {key} is a number, not {metadata[key]!r:.80}",
                "Pass a finite int or float, or leave the key out",
            )
    try:
        text = _JSON.encode(dict(metadata)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise OmewdError(
            "bad_metadata",
            f"a frame's metadata must be JSON-able: {error}",
            "Use string keys, and strings, finite numbers, booleans, None, lists and dicts as values",
        ) from error
    if len(text) > limit:
        raise OmewdError(
            "bad_metadata",
            f"a frame's metadata of {len(text)} bytes is over the limit of {limit}",
            "Store less of it with each frame",
        )
    return text


def _plain(value: object) -> object:
    """Convert numpy values for json."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON-able")


# Made once, because json.dumps() makes one for each call, which takes as long as the encoding.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def _whole(value: object) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _real(value: object) -> float | None:
    """A real number as a float; None for anything else, and for an int that is too large."""
    if isinstance(value, bool | np.bool_ | np.complexfloating) or not isinstance(value, int | float | np.number):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
