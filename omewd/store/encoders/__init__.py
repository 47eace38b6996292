"""Encoders, and which of them can serve: a line for each backend."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from omewd.errors import OmewdError
from omewd.model.spec.backend import AUTO, BACKENDS, Backend
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders.acquire_zarr import AcquireZarrEncoder
from omewd.store.encoders.base import Encoder, UnitArray
from omewd.store.encoders.direct import DirectEncoder
from omewd.store.encoders.tensorstore import TensorStoreEncoder
from omewd.store.encoders.zarr_python import ZarrPythonEncoder
from omewd.store.encoders.zarrs_python import ZarrsPythonEncoder
from omewd.store.filesystem import network_filesystem

ENCODERS: dict[str, type[Encoder]] = {
    "direct": DirectEncoder,
    "tensorstore": TensorStoreEncoder,
    "acquire-zarr": AcquireZarrEncoder,
    "zarrs-python": ZarrsPythonEncoder,
    "zarr-python": ZarrPythonEncoder,
}


def unusable(backend: Backend) -> str | None:
    """Why a backend can't be used on this machine, None if it can. Imports nothing."""
    missing = [package for package in backend.needs if not find_spec(package.module)]
    if not missing:
        return None
    names = " and ".join(package.module.replace("_", "-") for package in missing)
    remedy = " ".join(package.pip for package in missing)
    return f"{names} {'is' if len(missing) == 1 else 'are'} not installed: pip install {remedy}"


def availability() -> dict[str, str | None]:
    """For each backend, why it can't be used on this machine, None if it can."""
    return {name: unusable(backend) for name, backend in BACKENDS.items()}


def preload() -> None:
    """Import the library that "auto" takes, while nobody waits for it (0.1 to 0.3 s)."""
    for backend in BACKENDS.values():
        if unusable(backend) is None:
            for package in backend.needs:
                import_module(package.module)
            return


def select(spec: StreamSpec, folder: Path) -> tuple[Backend, str]:
    """The backend that a stream asks for, or for "auto" the first that can serve, and why not one before it.

    ``folder``: the dataset, or where it will be. Raises OmewdError ``backend_unusable``.
    """
    candidates = list(BACKENDS.values()) if spec.backend == AUTO else [BACKENDS[spec.backend]]
    reasons: list[str] = []
    for backend in candidates:
        array = UnitArray.of(spec, cell=backend.encodes)
        reason = (
            array.unencodable
            or unusable(backend)
            or ENCODERS[backend.name].incompatible(array)
            or _unsuited(backend, folder)
        )
        if reason is None:
            return backend, "; ".join(reasons)
        reasons.append(reason)
    raise OmewdError(
        "backend_unusable",
        f"backend {spec.backend!r} can't write this stream: {'; '.join(reasons)}",
        "See omewd backends",
    )


def _unsuited(backend: Backend, folder: Path) -> str | None:
    """Why a backend should not write to the filesystem of a folder, None if it may."""
    kind = network_filesystem(folder) if backend.local_only else None
    return f"{backend.name} is for local filesystems, and {folder} is on {kind}" if kind else None
