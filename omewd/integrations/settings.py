"""Converts a settings file, from any of the known programs, to the fields of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omewd.errors import OmewdError
from omewd.integrations import ome_writers, useq
from omewd.integrations.useq_grid import lacks_field_of_view
from omewd.model.spec.dimensions import Dimension, parse_dims
from omewd.model.spec.spec import StreamSpec

_FORMS = (
    "the fields of a stream (name, dims or dimensions, dtype, …), ome-writers' AcquisitionSettings (root_path, format, "
    "dimensions, …) or useq's MDASequence (channels, time_plan, z_plan, …)"
)
_ONLY_OME_WRITERS = {"root_path", "format"}
_ONLY_USEQ = useq.FIELDS - {"metadata", "uid"}


def fields_of(
    document: Mapping[str, Any], dims: str | None = None, *, pixel_size_um: float | None = None
) -> dict[str, Any]:
    """Convert a settings file's JSON object to the fields of a stream.

    It holds a stream's own fields, ome-writers' AcquisitionSettings, or useq's MDASequence; the field names tell which.
    ``dims``: the text of ``--dims``, which replaces the file's dimensions. With a sequence, it describes the frame, as
    in ``y:2048:256:8,x:2048:256:8``, and may give chunks and shards of the other dimensions. ``pixel_size_um``: places
    the tiles of a sequence's grids.

    Raises OmewdError ``usage`` for mixed and unknown fields, ``bad_spec`` for settings that no stream can have.
    """
    given = set(document)
    of_writers, of_useq = sorted(given & _ONLY_OME_WRITERS), sorted(given & _ONLY_USEQ)
    if of_useq and (of_writers or given & {"dimensions", "dims"}):
        others = of_writers or sorted(given & {"dimensions", "dims"})
        raise OmewdError(
            "usage", f"the settings mix fields of two programs: {of_useq[0]} and {others[0]}", f"Give {_FORMS}"
        )
    if of_useq:
        return _of_sequence(document, dims, pixel_size_um)
    if of_writers:
        fields = ome_writers.stream_fields(document)
    else:
        known = ["name", "dims", *(field for field in StreamSpec.model_fields if field != "name")]
        if unknown := [key for key in document if key not in known]:
            raise OmewdError("usage", f"a stream has no field {unknown[0]!r:.80}", f"The fields are {', '.join(known)}")
        fields = {key: value for key, value in document.items() if key != "dims"}
        dims = dims or document.get("dims")
        if not isinstance(dims, str | None):
            raise OmewdError("usage", f"dims must be a string, not {dims!r:.80}", 'Write it as in "t:100,y:512,x:512"')
    if not isinstance(fields.get("dimensions", []), list | tuple):
        raise OmewdError(
            "usage",
            f"dimensions must be a list, not {fields['dimensions']!r:.80}",
            "Give a list, or a string as dims",
        )
    if dims:
        fields["dimensions"] = [d.model_dump(mode="json") for d in parse_dims(dims)]
    return fields


def _of_sequence(document: Mapping[str, Any], dims: str | None, pixel_size_um: float | None) -> dict[str, Any]:
    remedy = "Describe the frame as in --dims y:2048:256:8,x:2048:256:8"
    if not dims:
        raise OmewdError("usage", "a useq sequence does not give the size of the frame", remedy)
    parts = parse_dims(dims)
    *outer, y, x = parts if len(parts) > 1 else (*parts, parts[0])
    if len(parts) < 2 or (y.name, x.name) != ("y", "x") or y.count is None or x.count is None:
        raise OmewdError("usage", f"--dims {dims} must end with the frame's y and x", remedy)
    sequence = useq.load_sequence(document)
    if pixel_size_um is None and lacks_field_of_view(sequence):
        raise OmewdError(
            "usage",
            "the sequence has a grid but no frame size in µm, so its tiles have no places",
            "Give the pixel size in µm, as in --scale y=0.5,x=0.5",
        )
    fields = useq.stream_fields(
        sequence,
        (y.count, x.count),
        pixel_size_um=pixel_size_um,
        chunks={d.name: d.chunk_size for d in parts if d.chunk_size},
        shards={d.name: d.shard_size_chunks for d in parts if d.shard_size_chunks},
    )
    _check_counts(outer, {d["name"]: d["count"] for d in fields["dimensions"]})
    del fields["dtype"]  # the sequence does not know it
    return fields


def _check_counts(outer: list[Dimension], counts: Mapping[str, int | None]) -> None:
    for dimension in outer:
        name, count = dimension.name, dimension.count
        if name not in counts or counts[name] != count:
            text = "inf" if count is None else count
            has = f"has {name}:{counts[name] or 'inf'}" if name in counts else f"has no {name}"
            raise OmewdError(
                "usage", f"--dims has {name}:{text}, but the sequence {has}", f"Leave {name} out of --dims"
            )
