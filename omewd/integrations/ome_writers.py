"""The settings of ome-writers (its AcquisitionSettings, as JSON) as the fields of a stream. Pure; needs no ome-writers.

Taken is what ``settings.model_dump(mode="json")`` of ome-writers 0.3 gives, and what people write by hand for its
constructor: coords as names, units as abbreviations, colours in any spelling of CSS, the format as a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.color import parse_str

from omewd.errors import OmewdError
from omewd.model.spec.backend import AUTO, BACKENDS
from omewd.model.spec.compression import NAMES, SHUFFLES
from omewd.model.spec.dimensions import Position
from omewd.model.spec.folders import unsuited

FIELDS = {
    "root_path",
    "dimensions",
    "dtype",
    "format",
    "compression",
    "storage_order",
    "plate",
    "overwrite",
}
_DIMENSION_FIELDS = {
    "name",
    "count",
    "type",
    "coords",
    "chunk_size",
    "shard_size_chunks",
    "unit",
    "scale",
    "translation",
}
# What ome-writers calls its backends, too.
_BACKENDS = {AUTO, *(backend.name for backend in BACKENDS.values() if not backend.is_own)}
_SUFFIXES = (".tiff", ".tif", ".zarr")
_MAX_NAME = 64
_USUAL = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space", "p": "position"}
_ONLY_OF_POSITIONS = {"plate_row", "plate_column", "grid_row", "grid_column", "x_coord", "y_coord", "z_coord"}

# The abbreviations of OME-XML (UnitsLength, UnitsTime), as OME-Zarr 0.5 names the units.
_PREFIXES = {
    "y": "yocto",
    "z": "zepto",
    "a": "atto",
    "f": "femto",
    "p": "pico",
    "n": "nano",
    "µ": "micro",
    "μ": "micro",
    "u": "micro",
    "m": "milli",
    "c": "centi",
    "d": "deci",
    "": "",
    "h": "hecto",
    "k": "kilo",
    "M": "mega",
    "G": "giga",
    "T": "tera",
    "P": "peta",
    "E": "exa",
    "Z": "zetta",
    "Y": "yotta",
}
_LENGTHS = {f"{short}m": f"{long}meter" for short, long in _PREFIXES.items()} | {
    "Å": "angstrom",
    "A": "angstrom",
    "u": "micrometer",
    "micron": "micrometer",
    "ft": "foot",
    "in": "inch",
    "mi": "mile",
    "pc": "parsec",
    "yd": "yard",
}
_TIMES = {f"{short}s": f"{long}second" for short, long in _PREFIXES.items()} | {
    "sec": "second",
    "msec": "millisecond",
    "usec": "microsecond",
    "µsec": "microsecond",
    "min": "minute",
    "h": "hour",
    "d": "day",
}


def stream_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a StreamSpec that mean the same; ``name`` and ``output`` are left out without a root_path.

    ``root_path`` gives the output, relative paths in the daemon's data root, and, without its suffix, the name.
    Raises OmewdError ``bad_spec`` for what can't be written: another format, fields that are unknown.
    """
    if "backend" in settings:
        raise _bad("ome-writers takes no field 'backend' here", "Name the backend in 'format'")
    _only_known(settings, FIELDS, "settings of ome-writers")
    root = str(settings.get("root_path") or "")
    backend, suffix = _format(settings.get("format"), root)
    fields: dict[str, Any] = {"backend": backend}
    if root:
        fields |= _place(root, suffix)
    names: dict[str, str] = {}
    dimensions = settings.get("dimensions") or ()
    if not _is_list(dimensions):
        raise _bad(f"'dimensions' is a list, not {dimensions!r:.80}")
    if dimensions:
        last = len(dimensions) - 2
        fields["dimensions"] = [_dimension(d, names, in_frame=i >= last) for i, d in enumerate(dimensions)]
    if settings.get("dtype"):
        fields["dtype"] = settings["dtype"]
    if settings.get("compression") is not None:
        fields["compression"] = _compression(settings["compression"])
    order = settings.get("storage_order")
    if order is not None:
        fields["storage_order"] = [names.get(n, n) for n in order] if _is_list(order) else order
    for field in ("plate", "overwrite"):
        if settings.get(field) is not None:
            fields[field] = settings[field]
    return fields | _folders(fields)


def _folders(fields: Mapping[str, Any]) -> dict[str, str]:
    """Folders of positions by name, as ome-writers has them, where the names can be those of folders."""
    dimensions = fields.get("dimensions", ())
    coords = next((d["coords"] for d in dimensions if d["type"] == "position" and d.get("coords")), None)
    if coords is None:
        return {}
    try:
        positions = [Position.parse(c) for c in coords]
    except OmewdError:
        return {}  # the stream's own check names it
    return {} if unsuited(positions, in_wells=fields.get("plate") is not None) else {"position_folders": "names"}


def _bad(message: str, remedy: str = "") -> OmewdError:
    return OmewdError("bad_spec", message, remedy)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _only_known(given: Any, known: set[str], what: str) -> None:
    if not isinstance(given, Mapping):
        raise _bad(f"{what} are an object, not {given!r:.80}")
    strange = sorted(str(key) for key in given if key not in known)
    if strange:
        raise _bad(f"{what} have no field {strange[0]!r}", f"They are: {', '.join(sorted(known))}")


# What ome-writers writes under these names; of blosc-lz4 it is omewd's level, too.
_ITS_LEVELS = {"blosc-zstd": "blosc-zstd:3", "zstd": "zstd:3"}
_OF_ACQUIRE_ZARR = {"compressor", "codec", "level", "shuffle"}


def _compression(given: Any) -> Any:
    """A compression as ome-writers or omewd names it, or as an object with the fields of acquire-zarr's settings."""
    if given == "lzw":
        raise _bad("compression 'lzw' is for TIFF", f"Use one of {', '.join(NAMES)}")
    if not isinstance(given, Mapping):
        return None if given == "none" else _ITS_LEVELS.get(given, given) if isinstance(given, str) else given
    _only_known(given, _OF_ACQUIRE_ZARR, "compressions")
    codec = str(given.get("codec") or "none").rpartition(".")[2].lower().replace("_", "-")
    if codec == "none":
        return None
    text = codec
    if given.get("level") is not None:
        text += f":{given['level']}"
    shuffle = given.get("shuffle")
    if (shuffle and codec == "zstd") or (shuffle is not None and codec != "zstd"):
        named = not isinstance(shuffle, bool) and isinstance(shuffle, int) and 0 <= shuffle < len(SHUFFLES)
        text += f"+{SHUFFLES[shuffle] if named else shuffle}"
    return text


# -- where to ----------------------------------------------------------------------------------


def _stem_and_suffix(root: str) -> tuple[str, str]:
    """A path without its ending, and that: ``.ome.zarr``, ``.zarr``, ``.ome.tiff``, …, or nothing."""
    for ending in _SUFFIXES:
        if root.lower().endswith(ending):
            stem = root[: -len(ending)]
            return (stem[:-4], f".ome{ending}") if stem.lower().endswith(".ome") else (stem, ending)
    return root, ""


def _format(given: Any, root: str) -> tuple[str, str]:
    """(backend, suffix of the dataset) of a format: a name, an object, or nothing where the root path tells."""
    _, suffix = _stem_and_suffix(root)
    if given is None or given == "auto":
        name, backend = ("ome-tiff" if suffix.endswith((".tiff", ".tif")) else "ome-zarr"), "auto"
        if not root:
            name = "scratch"
    elif isinstance(given, str):
        name = given.lower()
        backend = name if name in _BACKENDS else "auto"
        name = {"zarr": "ome-zarr", "tiff": "ome-tiff", "tifffile": "ome-tiff", "memory": "scratch"}.get(name, name)
        name = "ome-zarr" if name in _BACKENDS else name
    elif isinstance(given, Mapping):
        name, backend = str(given.get("name", "ome-zarr")), str(given.get("backend") or "auto")
        suffix = str(given.get("suffix") or suffix)
    else:
        raise _bad(f"'format' is a name or an object, not {given!r:.80}")
    if name == "ome-tiff":
        raise _bad(
            "format ome-tiff: omewd writes OME-Zarr only", 'Use "format": "ome-zarr", and a root_path in .ome.zarr'
        )
    if name == "scratch":
        raise _bad(
            "format scratch keeps frames in memory, and omewd writes them to disk",
            'Give a root_path that ends in .ome.zarr, and "format": "ome-zarr"',
        )
    if name != "ome-zarr" or backend not in _BACKENDS:
        raise _bad(f"format {name!r} with backend {backend!r} is unknown", f"Backends: {', '.join(sorted(_BACKENDS))}")
    return backend, suffix if suffix.endswith(".zarr") else ".ome.zarr"


def _place(root: str, suffix: str) -> dict[str, str]:
    if "://" in root:
        raise _bad(f"root_path {root!r:.200}: omewd writes to disks of this machine", "Give a path in a data root")
    stem, _ = _stem_and_suffix(root.rstrip("/"))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem.rsplit("/", 1)[-1]).strip("-")[:_MAX_NAME]
    if not name:
        raise _bad(f"root_path {root!r:.200} has no name that a stream could have", "Use letters and digits")
    return {"name": name, "output": stem + suffix}


# -- dimensions --------------------------------------------------------------------------------


def _dimension(given: Any, names: dict[str, str], *, in_frame: bool) -> dict[str, Any]:
    """One dimension; notes in ``names`` what its name has become: omewd's are words."""
    _only_known(given, _DIMENSION_FIELDS, "dimensions of ome-writers")
    name = str(given.get("name", ""))
    names[name] = re.sub(r"^(?=[^A-Za-z])", "d", re.sub(r"[^A-Za-z0-9_]", "_", name))[:32]
    coords = given.get("coords")
    if coords is not None and not _is_list(coords):
        raise _bad(f"coords of dimension {name!r} are a list, not {coords!r:.80}")
    kind = "space" if in_frame else given.get("type") or _kind(name, coords, given.get("unit"))
    unit = given.get("unit")
    dimension: dict[str, Any] = {
        "name": names[name],
        "count": given.get("count") if coords is None or given.get("count") else len(coords),
        "type": kind,
        "unit": _unit(unit, kind) if isinstance(unit, str) else unit,
        "translation": given.get("translation"),
        # 0 is what Micro-Manager says of a pixel size that nobody has measured.
        "scale": given.get("scale") or None,
    }
    if kind != "position":  # each position is an image of its own, there as here
        dimension |= {key: given.get(key) for key in ("chunk_size", "shard_size_chunks")}
    if coords is not None:
        dimension["coords"] = [_coordinate(c, str(kind)) for c in coords]
    return dimension


def _kind(name: str, coords: Sequence[Any] | None, unit: Any) -> str:
    """What a dimension without a type is: what its coords say, or its unit, or its name."""
    keys = {key for c in coords or () if isinstance(c, Mapping) for key in c}
    if keys:
        positions = keys & _ONLY_OF_POSITIONS or (keys == {"name"} and name == "p")
        return "position" if positions else "channel"
    if isinstance(unit, str):
        for kind, table in (("space", _LENGTHS), ("time", _TIMES)):
            if _unit(unit, kind) in table.values():
                return kind
    return _USUAL.get(name, "other")


def _unit(unit: str, kind: Any) -> str:
    table = {"space": _LENGTHS, "time": _TIMES}.get(str(kind), {})
    short = unit.lower() if len(unit) > 2 else unit
    return table.get(short, short if short in table.values() else unit)


def _coordinate(given: Any, kind: str) -> Any:
    if kind == "channel" and isinstance(given, Mapping):
        channel = {key: value for key, value in given.items() if value is not None}
        if "color" in channel:
            channel["color"] = hex_color(channel["color"])
        return channel
    if kind in ("space", "time") and isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            return given  # the stream's own check names it
    return given


def hex_color(given: Any) -> str:
    """Any spelling of a colour in CSS, or (r, g, b[, a]) in 0 to 255, as six hex digits; transparency is left out."""
    if _is_list(given) and len(given) in (3, 4) and all(isinstance(v, int | float) for v in given):
        parts = [float(v) / 255 for v in given[:3]]
    elif isinstance(given, str):
        try:
            color = parse_str(given)
        except ValueError as error:
            raise _bad(f"{given!r:.80} is no colour: {error}", "Such as red, #ff0000 or rgb(255, 0, 0)") from error
        parts = [color.r, color.g, color.b]
    else:
        raise _bad(f"{given!r:.80} is no colour", "Such as red, #ff0000 or [255, 0, 0]")
    if any(not 0 <= part <= 1 for part in parts):
        raise _bad(f"{given!r:.80} is no colour: a part of it is not in 0 to 255")
    return "".join(f"{round(part * 255):02X}" for part in parts)
