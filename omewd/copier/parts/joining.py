"""Joins a copy of several parts: claims the part's sources, before any key of it is put into the store."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, TypeVar

from omewd.copier.access.store import Target
from omewd.copier.parts.acquisition import common_of
from omewd.copier.parts.claims import MAJOR, Claim, Owner, Step, decide, is_settled
from omewd.dataset.copies import places
from omewd.dataset.metadata import parsed
from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point

# A specification has at most some MiB.
MOST_BYTES = 64 << 20
_MOST_HOST = 64
_Document = TypeVar("_Document", bound=Record)


def join(target: Target, spec: StreamSpec, epoch: int) -> None:
    """Claim the sources of a part; returns once it may copy them. Running it again changes nothing.

    Raises OmewdError ``output_exists`` if others have them or something else is there, ``busy`` if it is not decided
    yet, ``not_a_dataset`` for a dataset without an epoch, ``other_version``, and those of the store.
    """
    if not epoch:
        raise OmewdError("not_a_dataset", "the dataset has no epoch, so it can't be told from other parts of a copy")
    _check_free(target)
    mine = Claim(
        epoch=epoch, host=socket.gethostname()[:_MOST_HOST], sources=spec.source_elements, acquisition=common_of(spec)
    )
    target.create(places.claim(epoch), _text(mine.to_json()))
    point("copier: claimed")
    counts = range(spec.dimensions[spec.source_axis or 0].count or 0)
    owners = dict(owners_in(target, counts))
    others = [claim for claim in _claims(target) if claim.epoch != epoch]
    names = dict(zip(spec.source_elements, spec.source_names, strict=True))
    verdict = decide(mine, others, owners, acquisition_in(target), names)
    if verdict.step is Step.WAIT:
        raise OmewdError(
            "busy",
            f"{target.url}: {verdict.why}, and it is not decided yet who goes on",
            "Try again later. If that machine is gone, remove its claim in omewd/parts/claims",
        )
    why = verdict.why if verdict.step is Step.LOST else _settle(target, mine, names)
    if why:
        if not is_settled(mine, owners):
            _withdraw(target, mine)
        raise OmewdError("output_exists", f"{target.url}: {why}", "Choose another URL, or remove what is there")
    point("copier: claim settled")


def _check_free(target: Target) -> None:
    """Raise OmewdError ``output_exists`` if there is something that is no copy of parts.

    Others may begin at this moment. The claims of who copies were put before all else, and stay.
    """
    found = next(target.listed(), None)
    if found is None or places.is_of_parts(found.path) or next(target.listed(places.CLAIMS), None) is not None:
        return
    raise OmewdError("output_exists", f"there is something else at {target.url}", "Choose another URL, or remove it")


def _settle(target: Target, mine: Claim, names: dict[int, str]) -> str:
    """Put down whose the sources are, unless others were quicker; returns what is in the way then, or ""."""
    target.create(places.ACQUISITION, _text(mine.acquisition))
    owners = {}
    if acquisition_in(target) == mine.acquisition:
        for element in mine.sources:
            target.create(places.owner(element), _text(Owner(mine.epoch).to_json()))
        owners = dict(owners_in(target, mine.sources))
    if is_settled(mine, owners):
        return ""
    return decide(mine, [], owners, acquisition_in(target), names).why or "what was put there is gone"


def _withdraw(target: Target, mine: Claim) -> None:
    """Remove what a part has put that has lost before it had settled."""
    for element, epoch in owners_in(target, mine.sources):
        if epoch == mine.epoch:
            target.remove(places.owner(element))
    target.remove(places.claim(mine.epoch))


def _claims(target: Target) -> Iterator[Claim]:
    for found in target.listed(places.CLAIMS):
        text = target.read(found.path, MOST_BYTES)
        if text is None:  # it was removed meanwhile
            continue
        claim = _record_in(Claim, text)
        if claim is None:
            raise OmewdError("output_exists", f"{found.path} at {target.url} can't be read", "Choose another URL")
        if claim.major != MAJOR:
            raise OmewdError(
                "other_version",
                f"{found.path} at {target.url} has version {claim.major}.{claim.minor}, and this omewd knows {MAJOR}",
                "Use the same omewd on all machines",
            )
        yield claim


def acquisition_in(target: Target) -> dict[str, Any] | None:
    """What all parts of the copy have in common; None if no part has settled yet."""
    text = target.read(places.ACQUISITION, MOST_BYTES)
    return parsed(text) if text is not None else None


def owners_in(target: Target, elements: range | tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The (element, epoch) of each element of the source dimension that a part has."""
    for element in elements:
        text = target.read(places.owner(element), MOST_BYTES)
        owner = _record_in(Owner, text) if text is not None else None
        if owner is not None:
            yield element, owner.epoch


def _text(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _record_in(kind: type[_Document], text: bytes) -> _Document | None:
    try:
        return kind.from_json(parsed(text))
    except ValueError:
        return None
