"""Adapters to the Zarr libraries, and the registry of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from omewd.errors import OmewdError
from omewd.store.encoders.acquire_zarr import AcquireZarrBackend
from omewd.store.encoders.base import Backend, UnitArray
from omewd.store.encoders.direct import DirectBackend
from omewd.store.encoders.tensorstore import TensorStoreBackend
from omewd.store.encoders.zarr_python import ZarrPythonBackend
from omewd.store.encoders.zarrs_python import ZarrsPythonBackend

# The order in which "auto" tries them.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        DirectBackend(),
        TensorStoreBackend(),
        AcquireZarrBackend(),
        ZarrsPythonBackend(),
        ZarrPythonBackend(),
    )
}


def availability() -> dict[str, str | None]:
    """For each backend, why it can't be used on this machine, None if it can."""
    return {name: backend.unusable() for name, backend in BACKENDS.items()}


def preload() -> None:
    """Import the library that "auto" takes, while nobody waits for it (0.1 to 0.3 s)."""
    for backend in BACKENDS.values():
        if backend.unusable() is None:
            import_module(backend.module)
            return


def select(name: str, array: UnitArray, folder: Path) -> tuple[Backend, str]:
    """The backend of that name, or for "auto" the first that can serve, and why not one before it.

    ``folder``: the dataset, or where it will be. Raises OmewdError ``backend_unusable``.
    """
    candidates = list(BACKENDS) if name == "auto" else [name]
    reasons: list[str] = []
    for candidate in candidates:
        backend = BACKENDS[candidate]
        reason = array.unencodable or backend.unusable() or backend.incompatible(array) or backend.unsuited(folder)
        if reason is None:
            return backend, "; ".join(reasons)
        reasons.append(reason)
    raise OmewdError(
        "backend_unusable", f"backend {name!r} can't write this stream: {'; '.join(reasons)}", "See omewd backends"
    )
