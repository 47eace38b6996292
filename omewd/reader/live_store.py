"""A dataset that is being written, or is finished, as a store of zarr-python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from omewd.errors import OmewdError
from omewd.model.spec.spellings import stream_name

if TYPE_CHECKING:
    from omewd.reader.zarr_store import LiveStore


def live_store(name_or_path: str | os.PathLike[str], *, socket: str | os.PathLike[str] | None = None) -> LiveStore:
    """Open the dataset of a stream for zarr-python, while it is recorded or afterwards.

    ``name_or_path``: the name of a stream that the daemon at ``socket`` knows, or the path of a dataset. A path has a
    dot or a slash in it, as in "run.ome.zarr" and "./run", or is a :class:`pathlib.Path`; it needs no daemon.

    The result is a read-only ``zarr.abc.store.Store``. It has what is durable: arrays that are still being written have
    the shape that is filled by durable frames, and grow when they are opened again. Gaps read as the fill value. What
    is lost raises OmewdError ``not_stored``, and what a copy alone has raises ``evicted``, with its URL.
    Raises OmewdError: the errors of :func:`omewd.view` for a name, ``not_a_dataset`` for a path, ``not_installed``.
    """
    try:
        from omewd.reader.zarr_store import LiveStore
    except ImportError as error:
        raise OmewdError(
            "not_installed", f"live_store() needs zarr-python 3 ({error})", "Run: pip install 'zarr>=3.1'"
        ) from error
    from omewd.reader.keyed import KeyedReader

    if isinstance(name_or_path, str) and _is_name(name_or_path):
        return LiveStore(KeyedReader.of_stream(name_or_path, socket=socket))
    return LiveStore(KeyedReader.of_dataset(Path(name_or_path).absolute()))


def _is_name(text: str) -> bool:
    try:
        stream_name(text)
    except ValueError:
        return False
    return True
