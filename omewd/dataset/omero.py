"""How viewers show an image: the "omero" metadata of OME-Zarr 0.5, declared, measured, or set by users. Pure.

What a user has set is also stored under ``omewd`` → ``omero`` of the image group's attributes. That tells it from what
omewd writes, so that later measured windows don't replace it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from yaozarrs import v05

from omewd.errors import OmewdError
from omewd.model.contrast import MOST_CHANNELS, Window
from omewd.model.spec.dimensions import Channel
from omewd.model.spec.spec import StreamSpec

Attributes = dict[str, Any]
NAMESPACE = "ome.omero"
_CHANNEL_FIELDS = ("label", "color", "active", "window", "inverted", "family", "coefficient")
# For channels without a colour of their own; a single channel is grey.
_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


def declared(spec: StreamSpec, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """The channels of an array of ``shape``, as the spec declares them; one if the image has no channel axis."""
    for axis, dimension in enumerate(spec.disk_dimensions[:-2]):
        if dimension.type != "channel":
            continue
        named = [c for c in dimension.coords or () if isinstance(c, Channel)]
        count = min(shape[axis], len(named) or MOST_CHANNELS + 1)
        if not named and count > MOST_CHANNELS:
            return []
        if not named:
            several = dimension.count != 1
            named = [
                Channel(name=str(n), color=_COLORS[n % len(_COLORS)] if several else "FFFFFF") for n in range(count)
            ]
        return [_channel(channel, spec.dtype) for channel in named[:count]]
    return [_channel(Channel(name=spec.name), spec.dtype)]


def full_range(dtype: str) -> tuple[float, float]:
    """The lowest and highest value of a pixel; 0 and 1 for floats, as is usual."""
    bits = int("".join(filter(str.isdigit, dtype)))
    if dtype.startswith("float"):
        return 0.0, 1.0
    if dtype.startswith("uint"):
        return 0.0, float(2**bits - 1)
    return float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)


def _channel(channel: Channel, dtype: str) -> dict[str, Any]:
    """One channel's metadata; wavelengths are in nm, under the names that OMERO's web gateway uses."""
    low, high = full_range(dtype)
    start, end = channel.window or (low, high)
    window = v05.OmeroWindow(start=start, min=min(low, start), end=end, max=max(high, end))
    known = v05.OmeroChannel(label=channel.name, color=channel.color, active=True, window=window)
    optics = {
        "emissionWave": channel.emission_wavelength_nm,
        "excitationWave": channel.excitation_wavelength_nm,
        "fluorophore": channel.fluorophore,
    }
    shown: dict[str, Any] = known.model_dump(mode="json", exclude_none=True)
    return {**shown, **{name: value for name, value in optics.items() if value is not None}}


def measured(window: Window, dtype: str) -> dict[str, float]:
    """The omero window for a measured one; its start is below its end, whatever the pixels are."""
    _, start, end, lowest, highest = window
    low, high = full_range(dtype)
    if dtype.startswith("float"):
        low, high = lowest, highest
        if not start < end:
            half = max(abs(start), 1.0) / 2
            start, end = max(start - half, -sys.float_info.max), min(start + half, sys.float_info.max)
        return {"start": start, "min": min(low, start), "end": end, "max": max(high, end)}
    start, end = max(float(math.floor(start)), low), min(float(math.ceil(end)), high)
    if not start < end:
        step = max(1.0, math.ulp(high))
        start, end = (start, start + step) if start < high else (high - step, high)
    return {"start": start, "min": low, "end": end, "max": high}


def with_windows(
    attributes: Attributes, on_disk: Attributes, spec: StreamSpec, windows: Sequence[Window]
) -> Attributes:
    """The attributes to write for an image's group.

    ``attributes``: those that the spec declares. ``on_disk``: the present ones, of which other names, windows without a
    new measurement, and what users have set are kept. Neither is changed.
    """
    merged = {**on_disk, **attributes, "ome": _with_own_channels(attributes["ome"])}
    own = [part["omewd"] for part in (on_disk, attributes) if isinstance(part.get("omewd"), dict)]
    if own:
        merged["omewd"] = {name: value for part in own for name, value in part.items()}
    channels = merged["ome"].get("omero", {}).get("channels", [])
    before = channels_in(on_disk)
    of = {window[0]: window for window in windows}
    given = _given(spec)
    for number, channel in enumerate(channels):
        if number in given:
            continue
        if number in of:
            channel["window"] = measured(of[number], spec.dtype)
        elif number < len(before) and isinstance(before[number].get("window"), dict):
            channel["window"] = before[number]["window"]
    return _with_edits(merged)


def _with_own_channels(ome: dict[str, Any]) -> dict[str, Any]:
    """The attributes of OME-Zarr with a copy of what is known of channels."""
    if "omero" not in ome:
        return ome
    omero = ome["omero"]
    channels = [dict(channel) for channel in omero.get("channels", [])]
    return {**ome, "omero": {**omero, "channels": channels}}


def _given(spec: StreamSpec) -> set[int]:
    """The channels whose window the spec gives."""
    coords = next((d.coords or () for d in spec.dimensions[:-2] if d.type == "channel"), ())
    return {n for n, channel in enumerate(coords) if isinstance(channel, Channel) and channel.window is not None}


def channels_in(attributes: Attributes) -> list[dict[str, Any]]:
    try:
        found = attributes["ome"]["omero"]["channels"]
    except (KeyError, TypeError):
        return []
    return [c if isinstance(c, dict) else {} for c in found] if isinstance(found, list) else []


def _edits(attributes: Attributes) -> dict[str, Any]:
    own = attributes.get("omewd")
    found = own.get("omero") if isinstance(own, dict) else None
    return found if isinstance(found, dict) else {}


def _with_edits(attributes: Attributes) -> Attributes:
    """Apply what users have set."""
    edits, ome = _edits(attributes), attributes["ome"]
    channels = ome.get("omero", {}).get("channels", [])
    for number, fields in edits.get("channels", {}).items():
        if int(number) < len(channels):
            channels[int(number)].update(fields)
    if "rdefs" in edits and "omero" in ome:
        ome["omero"]["rdefs"] = edits["rdefs"]
    return attributes


def edited(attributes: Attributes, edit: Any) -> Attributes:
    """The attributes of an image's group with a user's edit of ``omero``, which is merged channel by channel.

    ``edit``: {"channels": [{…}, …] or {number or label: {…}}, "rdefs": {…}}. Raises OmewdError ``bad_metadata``.
    """
    shown = channels_in(attributes)
    if not isinstance(edit, dict) or not edit or not set(edit) <= {"channels", "rdefs"}:
        raise _bad("the value must be an object with channels or rdefs")
    changes: dict[str, Any] = {number: dict(f) for number, f in _edits(attributes).get("channels", {}).items()}
    channels = edit.get("channels", {})
    if not isinstance(channels, dict | list):
        raise _bad("channels must be a list, or an object by number or label")
    pairs = list(enumerate(channels)) if isinstance(channels, list) else list(channels.items())
    for which, fields in pairs:
        number = _number(which, shown)
        if fields is None:
            continue
        if not isinstance(fields, dict) or not set(fields) <= set(_CHANNEL_FIELDS):
            raise _bad(f"a channel can only have {', '.join(_CHANNEL_FIELDS)}")
        fields = dict(fields)
        if isinstance(fields.get("window"), dict):
            fields["window"] = {**shown[number].get("window", {}), **fields["window"]}
            window = fields["window"]
            if not window.get("start", 0) < window.get("end", 0):
                raise _bad(f"the window of channel {number} must start below its end")
        changes.setdefault(str(number), {}).update(fields)
    edits = {"channels": changes}
    rdefs = edit.get("rdefs", _edits(attributes).get("rdefs"))
    if rdefs is not None:
        edits["rdefs"] = rdefs
    own = attributes.get("omewd")
    result = _with_edits({**attributes, "omewd": {**(own if isinstance(own, dict) else {}), "omero": edits}})
    try:
        v05.Image.model_validate(result["ome"])
    except ValueError as error:
        raise _bad(" ".join(str(error).split())[:500]) from error
    return result


def _number(which: Any, shown: Sequence[dict[str, Any]]) -> int:
    """The number of a channel, given by number or label; raises OmewdError ``bad_metadata``."""
    labels = [channel.get("label") for channel in shown]
    if which in labels:
        return labels.index(which)
    number = int(which) if isinstance(which, int) or (isinstance(which, str) and which.isdecimal()) else -1
    if not 0 <= number < len(shown):
        raise _bad(f"there is no channel {which!r:.80}; the channels are {', '.join(map(str, labels)) or 'none'}")
    return number


def _bad(message: str) -> OmewdError:
    return OmewdError(
        "bad_metadata",
        f"{NAMESPACE}: {message}",
        'Write it as in {"channels": [{"window": {"start": 0, "end": 4000}}]}',
    )
