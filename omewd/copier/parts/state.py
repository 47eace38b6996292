"""What a store holds of a copy of several parts: which are complete, and which sources are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from omewd.copier.access.store import Target
from omewd.copier.digest import Digest
from omewd.copier.parts.acquisition import whole_of
from omewd.copier.parts.joining import acquisition_in, owners_in
from omewd.dataset.copies import places
from omewd.dataset.copies.manifest import Copied, Header, lines_in, read
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec


@dataclass(frozen=True)
class Part:
    """A complete part. ``elements``: of the source dimension. ``copied``: its objects, by their paths in the copy."""

    epoch: int
    elements: tuple[int, ...]
    manifest: Copied
    copied: Mapping[str, Copied]


@dataclass(frozen=True)
class Parts:
    """The parts of a copy, in the order of their first elements.

    ``whole``: the acquisition with all sources. ``missing``: the elements whose parts are not complete.
    """

    whole: StreamSpec
    complete: tuple[Part, ...]
    missing: tuple[int, ...]

    @property
    def missing_names(self) -> tuple[str, ...]:
        return tuple(self.whole.source_names[element] for element in self.missing)


def parts_of(target: Target) -> Parts | None:
    """The parts of a copy; None if it is not one of parts.

    Raises OmewdError ``not_a_dataset`` if what they have in common can't be read, ``other_version``, and those of the
    store.
    """
    common = acquisition_in(target)
    if common is None:
        return None
    try:
        whole = whole_of(common)
    except OmewdError as error:
        raise OmewdError("not_a_dataset", f"{places.ACQUISITION} at {target.url}: {error.message}") from error
    by_epoch: dict[int, list[int]] = {}
    for element, epoch in owners_in(target, whole.source_elements):
        by_epoch.setdefault(epoch, []).append(element)
    parts = [_part(target, epoch, tuple(elements)) for epoch, elements in by_epoch.items()]
    complete = tuple(part for part in parts if part is not None)
    there = {element for part in complete for element in part.elements}
    return Parts(whole, complete, tuple(each for each in whole.source_elements if each not in there))


def _part(target: Target, epoch: int, elements: tuple[int, ...]) -> Part | None:
    """A part; None if it is not complete."""
    path = places.manifest_of(epoch)
    got = target.get(path)
    if got is None:
        return None
    stored, pieces = got
    digest = Digest(stored.size)

    def counted() -> Iterator[bytes]:
        for piece in pieces:
            digest.add(piece)
            yield piece

    found: tuple[Header, dict[str, Copied]] | None = read(lines_in(counted()))
    if found is None or found[0].epoch != epoch:
        return None
    return Part(epoch, elements, Copied(path, stored.size, 0, digest.text(), stored.etag, "read"), found[1])


def own_objects(target: Target, parts: Parts) -> Iterator[Copied]:
    """The objects that only a copy of parts has, but for those of the parts themselves."""
    yield from (part.manifest for part in parts.complete)
    paths = [places.ACQUISITION, *(places.claim(part.epoch) for part in parts.complete)]
    paths += [places.owner(element) for part in parts.complete for element in part.elements]
    for path in paths:
        if (got := target.get(path)) is not None:
            stored, pieces = got
            digest = Digest(stored.size)
            for piece in pieces:
                digest.add(piece)
            yield Copied(path, stored.size, 0, digest.text(), stored.etag, "read")
