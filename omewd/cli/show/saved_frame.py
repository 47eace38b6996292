"""Saves a frame as a file, in the format of its suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.libraries import required

Pixels = np.ndarray[Any, Any]

SUFFIXES = (".npy", ".png", ".tif", ".tiff")
# OME-XML 2016-06, "PixelType" and "UnitsLength", of those that streams may have.
_OME_TYPES = {"int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64"}
_OME_UNITS = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm", "meter": "m", "angstrom": "Å"}


def save(path: Path, pixels: Pixels, spec: StreamSpec, name: str) -> None:
    """Save the pixels (Y, X) of a frame. ``name``: of the image in the file.

    .npy has the pixels alone. .tif and .tiff are OME-TIFF, with the pixel size. .png is for the eye: 8 bits, black and
    white at the percentiles 0.1 and 99.9. Raises OmewdError ``not_installed``, ``usage``; OSError.
    """
    match path.suffix.lower():
        case ".npy":
            with path.open("wb") as file:
                np.save(file, pixels)
        case ".png":
            drawing = required("omewd.web.pictures.picture", "save a PNG", "pillow")
            path.write_bytes(drawing.picture(pixels, most=max(pixels.shape)).png)
        case ".tif" | ".tiff":
            _save_tiff(path, pixels, spec, name)
        case suffix:
            raise OmewdError(
                "usage",
                f"a frame can't be saved as {suffix or 'a file without a suffix'}",
                "Use .npy, .png or .tif",
            )


def _save_tiff(path: Path, pixels: Pixels, spec: StreamSpec, name: str) -> None:
    if str(pixels.dtype) not in _OME_TYPES:
        raise OmewdError("usage", f"OME-TIFF has no pixels of type {pixels.dtype}", "Save it as .npy")
    metadata: dict[str, Any] = {"axes": "YX", "Name": name}
    for axis, dim in zip("YX", spec.dimensions[-2:], strict=True):
        if dim.unit in _OME_UNITS:
            metadata |= {f"PhysicalSize{axis}": dim.scale, f"PhysicalSize{axis}Unit": _OME_UNITS[dim.unit]}
    required("tifffile", "save a TIFF").imwrite(path, pixels, ome=True, metadata=metadata)
