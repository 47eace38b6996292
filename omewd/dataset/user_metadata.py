"""Attributes that are added to a dataset's groups during the stream or later: users' metadata and measured windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omewd.dataset import omero
from omewd.dataset.dataset import summary_of
from omewd.dataset.ledger import ledger
from omewd.dataset.metadata import attributes_of, read, text_of
from omewd.dataset.strays import USER_METADATA, remove_asides
from omewd.errors import OmewdError
from omewd.model.contrast import Window
from omewd.model.plan.images import group_of
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec
from omewd.store.sinks.publish import Publisher


def put(dataset: Path, epoch: int, namespace: str, value: Any, position: object, well: object) -> None:
    """Put a value into the attributes of a position, a well or the dataset. Only one process may do so at a time.

    Raises OmewdError ``not_a_dataset`` if the dataset is no longer the one of the stream with that epoch,
    ``bad_metadata``; OSError.
    """
    spec = _spec(dataset, epoch)
    group = group_of(spec, position, well, images=namespace == omero.NAMESPACE)
    groups = spec.image_paths if group is None else (group,)
    changed = {}
    for path, document in _documents(dataset, groups).items():
        attributes = attributes_of(document)
        if namespace == omero.NAMESPACE:
            attributes = omero.edited(attributes, value)
        else:
            attributes = {**attributes, namespace: value}
        changed[path] = {**document, "attributes": attributes}
    _publish(dataset, changed)


def put_windows(dataset: Path, epoch: int, windows: Sequence[Window]) -> None:
    """Set the measured windows of a dataset's images; raises the errors of :func:`put`."""
    spec = _spec(dataset, epoch)
    changed = {}
    for path, document in _documents(dataset, spec.image_paths).items():
        before = attributes_of(document)
        attributes = omero.with_windows(before, before, spec, windows)
        if attributes != before:
            changed[path] = {**document, "attributes": attributes}
    _publish(dataset, changed)


def _spec(dataset: Path, epoch: int) -> StreamSpec:
    summary = summary_of(dataset)
    if summary.get("epoch") != epoch:
        raise OmewdError(
            "not_a_dataset", f"{dataset} is no longer the dataset of that stream", "Was it moved or replaced?"
        )
    return stored_spec(summary["stream"])


def _documents(dataset: Path, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for group in groups:
        path = f"{group}/zarr.json" if group else "zarr.json"
        document = read(dataset / path)
        if not document:
            raise OmewdError("not_a_dataset", f"{dataset / path} can't be read", "Was it moved or replaced?")
        found[path] = document
    return found


def _publish(dataset: Path, documents: dict[str, dict[str, Any]]) -> None:
    files = ((path, text_of(document)) for path, document in documents.items())
    aside = dataset / ledger.FOLDER  # a complete dataset has no staging folder any more
    try:
        Publisher(dataset, aside, durable=True).publish(files, label=USER_METADATA)
    finally:
        remove_asides(dataset)
