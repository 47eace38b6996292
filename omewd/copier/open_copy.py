"""A copy as a store of zarr-python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omewd.copier.access.store import Target
from omewd.model.address import Address

if TYPE_CHECKING:
    from zarr.storage import ObjectStore


def open_copy(url: str) -> ObjectStore[Any]:
    """Open a copy for zarr-python: ``zarr.open_group(omewd.open_copy("s3://bucket/run.ome.zarr"), mode="r")``.

    The result is a read-only ``zarr.storage.ObjectStore``. Credentials come from the environment or profile files.
    Raises OmewdError ``bad_url``, ``not_installed``, ``store_refused``, ``store_missing``.
    """
    target = Target(Address.parse(url))
    from zarr.storage import ObjectStore

    return ObjectStore(target.store, read_only=True)
