"""The summary of a dataset, by which a reader knows that the dataset is still the one that it has opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omewd.dataset.ledger.ledger import FOLDER, UNREADABLE
from omewd.errors import OmewdError


def not_stored(dataset: Path, why: str) -> OmewdError:
    """The error for what a dataset has lost, or does not give."""
    return OmewdError("not_stored", f"{dataset} can't be read: {why}", "Run omewd verify on it")


class Summary:
    """Reads a dataset's summary, which has all positions, again only if it was replaced.

    ``epoch``: tells the dataset from another one at the same path; None for whichever is there first.
    """

    def __init__(self, dataset: Path, epoch: int | None = None) -> None:
        self._dataset, self._epoch = dataset, epoch
        self._last: tuple[tuple[int, ...], dict[str, Any]] | None = None

    def read(self) -> dict[str, Any]:
        """The summary as it is now; raises OmewdError ``not_stored`` if the dataset is gone or was replaced."""
        path = self._dataset / FOLDER / "zarr.json"
        try:
            found = path.stat()
            version = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
            if self._last is not None and self._last[0] == version:
                return self._last[1]
            summary: dict[str, Any] = json.loads(path.read_bytes())["attributes"]["omewd"]
            epoch = summary["epoch"]
        except UNREADABLE as error:
            raise not_stored(self._dataset, "it no longer exists") from error
        if self._epoch is None:
            self._epoch = epoch
        if epoch != self._epoch:
            raise not_stored(self._dataset, "another stream has replaced it")
        self._last = version, summary
        return summary
