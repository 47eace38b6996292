"""Where the files of a dataset are in its copy. Pure.

The copy of a dataset has each file at the file's own path. A dataset that is a part of an acquisition, because other
daemons have some of its sources, is copied into one dataset together with theirs:

    0/c/0/2/0/0                        a key is at its path: sources have keys of their own
    omewd/parts/EPOCH/omewd/zarr.json.part
                                       any other file of the part with this epoch; named so that no program takes a part
                                       for a dataset
    omewd/parts/EPOCH.jsonl            the part's manifest, stored last: the part is complete
    omewd/parts/claims/EPOCH.json      which sources it has, and what acquisition it is a part of
    omewd/parts/acquisition.json       what all parts have in common
    omewd/parts/owners/ELEMENT.json    the epoch of the part that has this element of the source dimension

All other objects are those of a dataset with all sources. They are made of the parts once all are complete.
"""

from __future__ import annotations

from omewd.dataset.copies.manifest import STORED
from omewd.dataset.keys import Keys
from omewd.dataset.ledger.ledger import FOLDER as OWN_FOLDER
from omewd.model.spec.spec import StreamSpec

FOLDER = f"{OWN_FOLDER}/parts"
CLAIMS = f"{FOLDER}/claims"
ACQUISITION = f"{FOLDER}/acquisition.json"
_SUFFIX = ".part"


def claim(epoch: int) -> str:
    return f"{CLAIMS}/{epoch}.json"


def owner(element: int) -> str:
    return f"{FOLDER}/owners/{element}.json"


def manifest_of(epoch: int) -> str:
    return f"{FOLDER}/{epoch}.jsonl"


def of_part(epoch: int, path: str) -> str:
    """The place of a part's file that is not a key."""
    return f"{FOLDER}/{epoch}/{path}{_SUFFIX}"


def is_of_parts(path: str) -> bool:
    """Whether a path in a dataset is one of those that only the copy of several parts has."""
    return path.startswith(f"{FOLDER}/")


class Places:
    """The places of a dataset's files in its copy. ``manifest``: of the one that is stored last."""

    def __init__(self, spec: StreamSpec, epoch: int) -> None:
        self._epoch = epoch
        self._keys = Keys(spec) if spec.is_part else None
        self.manifest = manifest_of(epoch) if spec.is_part else STORED

    def of(self, path: str) -> str:
        if self._keys is None or self._keys.units_of(path):
            return path
        return of_part(self._epoch, path)
