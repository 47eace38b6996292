"""The readers that the suite runs on. A new one is a class like these and a line at the end.

A **live** reader shows a stream while it is recorded; the others show a dataset that is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import omewd
from omewd.client.client import Client
from omewd.model.spec.spec import StreamSpec
from omewd.reader.stored import StoredFrames
from tests.conformance.reader.by_the_page import ReaderByThePage
from tests.support.frames import Array


class ConformingReader(Protocol):
    """Reads frames of a stream with a single source. What is not there is an error with a ``code``, never black."""

    def frame(self, index: int) -> Array:
        """The (Y, X) pixels of a frame index, zeros for a gap."""

    def metadata(self, index: int) -> dict[str, Any] | None:
        """What the producer said of the frame, None if nothing."""

    def close(self) -> None: ...


class ViewReader:
    """``omewd.view``: out of the ring, else out of the dataset."""

    def __init__(self, socket: Path, name: str) -> None:
        self._view = omewd.view(name, socket=socket)

    def frame(self, index: int) -> Array:
        return self._view.frame(index).copy()

    def metadata(self, index: int) -> dict[str, Any] | None:
        return self._view.frame(index).metadata

    def close(self) -> None:
        self._view.close()


class StoredReader:
    """The dataset alone, shards in progress included."""

    def __init__(self, socket: Path, name: str) -> None:
        path = Path(Client(socket).status(name)["path"])
        summary = json.loads((path / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
        backend = Client(socket).status(name)["backend"]
        spec = StreamSpec.parse(summary["stream"])
        self._frames = StoredFrames(spec, path, 0, backend=backend, epoch=summary["epoch"])

    def frame(self, index: int) -> Array:
        return np.array(self._frames.read(index))

    def metadata(self, index: int) -> dict[str, Any] | None:
        recorded: dict[str, Any] | None = self._frames.recorded(index)[0]
        return recorded

    def close(self) -> None:
        pass


def refused_with(read: Callable[[], object]) -> str | None:
    """The code of the error, if there is one."""
    try:
        read()
    except omewd.OmewdError as error:
        return error.code
    return None


class LiveStoreReader:
    """zarr-python over the live store; the ledger says where a frame is."""

    def __init__(self, socket: Path, name: str) -> None:
        self._store = omewd.live_store(name, socket=socket)
        self._ledger = omewd.open_ledger(self._store.path)

    def frame(self, index: int) -> Array:
        import zarr

        try:
            row = self._ledger[index]
        except IndexError as error:
            raise omewd.OmewdError("no_frame", f"the ledger has no frame {index} yet") from error
        image = self._ledger.images[row.image]
        array = zarr.open_array(self._store, path=f"{image}/0" if image else "0", mode="r")
        if any(at >= size for at, size in zip(row.index.values(), array.shape, strict=False)):
            raise omewd.OmewdError("no_frame", f"frame {index} is outside of shape {array.shape}")
        return np.asarray(array[tuple(row.index.values())])

    def shows(self, index: int) -> bool:
        """Whether a durable frame is shown already: what is not whole along the faster dimensions is not."""
        return refused_with(lambda: self.frame(index)) != "no_frame"

    def metadata(self, index: int) -> dict[str, Any] | None:
        said = self._ledger[index].metadata
        return None if said is None else dict(said)

    def close(self) -> None:
        self._store.release()


class LedgerReader:
    """The ledger says where a frame is, zarr-python reads it there."""

    def __init__(self, socket: Path, name: str) -> None:
        self._path = Path(Client(socket).status(name)["path"])
        self._ledger = omewd.open_ledger(self._path)

    def frame(self, index: int) -> Array:
        import zarr

        row = self._ledger[index]
        if row.gap == "lost":
            raise omewd.OmewdError("not_stored", f"frame {index} is lost")
        if row.gap:
            totals = json.loads((self._path / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
            return np.zeros(StreamSpec.parse(totals["stream"]).frame_shape, totals["stream"]["dtype"])
        array = zarr.open_array(str(self._path / self._ledger.images[row.image] / "0"), mode="r")
        return np.asarray(array[tuple(row.index.values())])

    def metadata(self, index: int) -> dict[str, Any] | None:
        said = self._ledger[index].metadata
        return None if said is None else dict(said)

    def close(self) -> None:
        pass


Open = Callable[[Path, str], ConformingReader]
LIVE: dict[str, Open] = {
    "view": ViewReader,
    "stored": StoredReader,
    "by the page": ReaderByThePage,
    "live store": LiveStoreReader,
}
COMPLETE: dict[str, Open] = {**LIVE, "live store": LiveStoreReader, "ledger": LedgerReader}
