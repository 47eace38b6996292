"""Converts ome-writers' AcquisitionSettings (as JSON) to the fields of a stream. Pure; does not need ome-writers.

Takes what ``settings.model_dump(mode="json")`` of ome-writers 0.3 returns, and what people pass to its constructor:
coords as names, abbreviated units, any CSS colour, the format as a name.
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
from omewd.model.spec.folders import folder_problem

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
_POSITION_FIELDS = {"plate_row", "plate_column", "grid_row", "grid_column", "x_coord", "y_coord", "z_coord"}

# From the abbreviations of OME-XML (UnitsLength, UnitsTime) to OME-Zarr 0.5's unit names.
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
    """Convert settings to fields of a StreamSpec; without a root_path there are no ``name`` and ``output``.

    ``root_path`` becomes the output, in the daemon's data root if it is relative. The name is its last part without the
    suffix. Raises OmewdError ``bad_spec`` for another format than OME-Zarr and for unknown fields.
    """
    if "backend" in settings:
        raise _bad("settings of ome-writers have no field 'backend'", "Name the backend in 'format'")
    _only_known(settings, FIELDS, "settings of ome-writers")
    root = str(settings.get("root_path") or "")
    backend, suffix = _format(settings.get("format"), root)
    fields: dict[str, Any] = {"backend": backend}
    if root:
        fields |= _name_and_output(root, suffix)
    names: dict[str, str] = {}
    dimensions = settings.get("dimensions") or ()
    if not _is_list(dimensions):
        raise _bad(f"'dimensions' must be a list, not {dimensions!r:.80}")
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
    """Name the folders of positions as ome-writers does, if their names can be folder names."""
    dimensions = fields.get("dimensions", ())
    coords = next((d["coords"] for d in dimensions if d["type"] == "position" and d.get("coords")), None)
    if coords is None:
        return {}
    try:
        positions = [Position.parse(c) for c in coords]
    except OmewdError:
        return {}  # validating the stream reports it
    return {} if folder_problem(positions, in_wells=fields.get("plate") is not None) else {"position_folders": "names"}


def _bad(message: str, remedy: str = "") -> OmewdError:
    return OmewdError("bad_spec", message, remedy)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _only_known(given: Any, known: set[str], what: str) -> None:
    if not isinstance(given, Mapping):
        raise _bad(f"{what} must be an object, not {given!r:.80}")
    strange = sorted(str(key) for key in given if key not in known)
    if strange:
        raise _bad(f"{what} have no field {strange[0]!r}", f"The fields are {', '.join(sorted(known))}")


# The levels that ome-writers means by these names. For blosc-lz4 it is omewd's default, too.
_DEFAULT_LEVELS = {"blosc-zstd": "blosc-zstd:3", "zstd": "zstd:3"}
_ACQUIRE_ZARR_FIELDS = {"compressor", "codec", "level", "shuffle"}


def _compression(given: Any) -> Any:
    """Convert a compression: a name of ome-writers or omewd, or an object with acquire-zarr's settings."""
    if given == "lzw":
        raise _bad("compression 'lzw' is only for TIFF", f"Use one of {', '.join(NAMES)}")
    if not isinstance(given, Mapping):
        return None if given == "none" else _DEFAULT_LEVELS.get(given, given) if isinstance(given, str) else given
    _only_known(given, _ACQUIRE_ZARR_FIELDS, "compressions")
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


# -- format and output -------------------------------------------------------------------------


def _stem_and_suffix(root: str) -> tuple[str, str]:
    """Split a path into its stem and its suffix: ``.ome.zarr``, ``.zarr``, ``.ome.tiff``, … or ""."""
    for ending in _SUFFIXES:
        if root.lower().endswith(ending):
            stem = root[: -len(ending)]
            return (stem[:-4], f".ome{ending}") if stem.lower().endswith(".ome") else (stem, ending)
    return root, ""


def _format(given: Any, root: str) -> tuple[str, str]:
    """(backend, suffix of the dataset) for a format: a name, an object, or None to go by the root path."""
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
        raise _bad(f"'format' must be a name or an object, not {given!r:.80}")
    if name == "ome-tiff":
        raise _bad(
            "format ome-tiff: omewd only writes OME-Zarr",
            'Use "format": "ome-zarr" and a root_path that ends in .ome.zarr',
        )
    if name == "scratch":
        raise _bad(
            "format scratch keeps frames in memory, but omewd writes them to disk",
            'Use "format": "ome-zarr" and a root_path that ends in .ome.zarr',
        )
    if name != "ome-zarr" or backend not in _BACKENDS:
        raise _bad(
            f"format {name!r} with backend {backend!r} is unknown",
            f"Use ome-zarr, with a backend of {', '.join(sorted(_BACKENDS))}",
        )
    return backend, suffix if suffix.endswith(".zarr") else ".ome.zarr"


def _name_and_output(root: str, suffix: str) -> dict[str, str]:
    if "://" in root:
        raise _bad(f"root_path {root!r:.200}: omewd only writes to local paths", "Give a path in a data root")
    stem, _ = _stem_and_suffix(root.rstrip("/"))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem.rsplit("/", 1)[-1]).strip("-")[:_MAX_NAME]
    if not name:
        raise _bad(f"root_path {root!r:.200} makes no name for a stream", "Use letters and digits")
    return {"name": name, "output": stem + suffix}


# -- dimensions --------------------------------------------------------------------------------


def _dimension(given: Any, names: dict[str, str], *, in_frame: bool) -> dict[str, Any]:
    """Convert one dimension. Its new name goes into ``names``: omewd's names are letters, digits and _."""
    _only_known(given, _DIMENSION_FIELDS, "dimensions of ome-writers")
    name = str(given.get("name", ""))
    names[name] = re.sub(r"^(?=[^A-Za-z])", "d", re.sub(r"[^A-Za-z0-9_]", "_", name))[:32]
    coords = given.get("coords")
    if coords is not None and not _is_list(coords):
        raise _bad(f"the coords of dimension {name!r} must be a list, not {coords!r:.80}")
    kind = "space" if in_frame else given.get("type") or _kind(name, coords, given.get("unit"))
    unit = given.get("unit")
    dimension: dict[str, Any] = {
        "name": names[name],
        "count": given.get("count") if coords is None or given.get("count") else len(coords),
        "type": kind,
        "unit": _unit(unit, kind) if isinstance(unit, str) else unit,
        "translation": given.get("translation"),
        # Micro-Manager gives 0 for an unknown pixel size.
        "scale": given.get("scale") or None,
    }
    if kind != "position":  # each position is an image of its own, as in ome-writers
        dimension |= {key: given.get(key) for key in ("chunk_size", "shard_size_chunks")}
    if coords is not None:
        dimension["coords"] = [_coordinate(c, str(kind)) for c in coords]
    return dimension


def _kind(name: str, coords: Sequence[Any] | None, unit: Any) -> str:
    """The type of a dimension that gives none, by its coords, else its unit, else its name."""
    keys = {key for c in coords or () if isinstance(c, Mapping) for key in c}
    if keys:
        positions = keys & _POSITION_FIELDS or (keys == {"name"} and name == "p")
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
            return given  # validating the stream reports it
    return given


def hex_color(given: Any) -> str:
    """Convert a CSS colour, or (r, g, b[, a]) from 0 to 255, to six hex digits. Transparency is ignored."""
    if _is_list(given) and len(given) in (3, 4) and all(isinstance(v, int | float) for v in given):
        parts = [float(v) / 255 for v in given[:3]]
    elif isinstance(given, str):
        try:
            color = parse_str(given)
        except ValueError as error:
            raise _bad(
                f"{given!r:.80} is not a colour: {error}", "Write it as red, #ff0000 or rgb(255, 0, 0)"
            ) from error
        parts = [color.r, color.g, color.b]
    else:
        raise _bad(f"{given!r:.80} is not a colour", "Write it as red, #ff0000 or [255, 0, 0]")
    if any(not 0 <= part <= 1 for part in parts):
        raise _bad(f"{given!r:.80} is not a colour: each component must be from 0 to 255")
    return "".join(f"{round(part * 255):02X}" for part in parts)
