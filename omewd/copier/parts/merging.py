"""The metadata of an acquisition, made of those of its parts. Pure.

Whoever completes a copy makes the same of the same parts, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omewd.dataset import metadata, omero
from omewd.dataset.ledger import ledger
from omewd.dataset.made_by import MadeBy
from omewd.model.spec.spec import StreamSpec

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What a part tells. ``elements``: of the source dimension. ``summary``: its omewd/zarr.json's attribute omewd.

    ``manifest``: the digest of its manifest. ``document``: reads one of its zarr.json, {} for one that it lacks.
    """

    epoch: int
    elements: tuple[int, ...]
    summary: Mapping[str, Any]
    manifest: str
    document: Callable[[str], Attributes]


def received_in(whole: StreamSpec, parts: Sequence[Told]) -> list[int]:
    """How many frames were received of each source of the acquisition."""
    totals = {
        element: each.received
        for part in parts
        for element, each in zip(part.elements, ledger.totals_in(dict(part.summary)), strict=True)
    }
    return [totals[element] for element in whole.source_elements]


def summary(whole: StreamSpec, parts: Sequence[Told]) -> dict[str, Any]:
    """The zarr.json of the group omewd. ``parts`` in it says what was joined, with the digests of their manifests.

    The acquisition is complete if all parts are. The backend is the one of all parts; if they differ, one that leaves
    out chunks of zeros, so that nobody misses these.
    """
    totals = {
        element: each
        for part in parts
        for element, each in zip(part.elements, ledger.totals_in(dict(part.summary)), strict=True)
    }
    makers = [MadeBy.of(dict(part.summary)) for part in parts]
    made_by = next((each for each in makers if each.leaves_zeros_out(whole.backend)), makers[0])
    document = ledger.summary_json(
        whole,
        state="complete" if all(part.summary["state"] == "complete" for part in parts) else "failed",
        totals=[totals[element] for element in whole.source_elements],
        ended_by="; ".join(dict.fromkeys(part.summary["ended_by"] for part in parts if part.summary["ended_by"])),
        made_by=made_by,
    )
    document["attributes"]["omewd"]["parts"] = [
        {
            "epoch": part.epoch,
            "sources": [whole.source_names[element] for element in part.elements],
            "manifest": part.manifest,
        }
        for part in parts
    ]
    return document


def documents(whole: StreamSpec, parts: Sequence[Told]) -> Iterator[tuple[str, metadata.Document]]:
    """All other zarr.json files, by path.

    A shape covers the longest of the sources. Attributes are those of all parts: if two have the same one, that of the
    part with the lower source counts. An image shows a channel as the part does whose source it is, or else as the
    first one.
    """
    images = {path: image for image, path in enumerate(whole.image_paths)}
    for path, document in metadata.documents(whole, received_in(whole, parts)):
        if document.is_array:
            yield path, document
            continue
        own = document.json["attributes"]
        image = images.get(path.removesuffix("zarr.json").rstrip("/"))
        ranked = _ranked(whole, parts, image)
        attributes = [metadata.attributes_of(part.document(path)) for part in ranked]
        there = _together(attributes)
        if image is not None and "multiscales" in own.get("ome", {}):
            there["ome"] = {"omero": {"channels": _channels(whole, ranked, attributes)}}
            merged = omero.with_windows(own, there, whole, ())
        else:
            merged = {**there, **own}
        yield path, metadata.Document({**document.json, "attributes": merged})


def _ranked(whole: StreamSpec, parts: Sequence[Told], image: int | None) -> list[Told]:
    """The parts, first the one that has this image to itself, if each source has images of its own."""
    own_images = whole.source_axis is not None and whole.dimensions[whole.source_axis].type == "position"
    return sorted(parts, key=lambda part: not (own_images and image in part.elements))


def _together(attributes: Iterable[Attributes]) -> Attributes:
    """The attributes of all; of those with the same name, the first one counts. Users' settings of channels are joined,
    too.
    """
    together: Attributes = {}
    for each in attributes:
        for name, value in each.items():
            before = together.setdefault(name, value)
            if name == "omewd" and isinstance(before, dict) and isinstance(value, dict):
                together[name] = _joined(value, before, depth=3)  # omewd → omero → channels → number
    return together


def _joined(under: Attributes, over: Attributes, depth: int) -> Attributes:
    """Two objects as one, and so those in them, that many levels deep; ``over`` counts where both have a value."""
    joined = {**under, **over}
    for name in {*under} & {*over} if depth else ():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            joined[name] = _joined(under[name], over[name], depth - 1)
    return joined


def _channels(whole: StreamSpec, parts: Sequence[Told], attributes: Sequence[Attributes]) -> list[Any]:
    """How the channels of an image are shown."""
    shown = [omero.channels_in(each) for each in attributes]
    axis = whole.source_axis
    by_channel = axis is not None and whole.dimensions[axis].type == "channel"
    owner = {element: number for number, part in enumerate(parts) for element in part.elements} if by_channel else {}
    count = max(map(len, shown), default=0)
    return [_nth(shown, channel, owner.get(channel, 0)) for channel in range(count)]


def _nth(shown: Sequence[list[Any]], channel: int, first: int) -> Any:
    return next((some[channel] for some in (shown[first], *shown) if channel < len(some)), {})
