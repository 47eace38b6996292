"""A dataset on disk as a whole: made at the start, given its final metadata at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from omewd.control.faultpoints import point
from omewd.errors import OmewdError
from omewd.model.plan import Plan
from omewd.model.shards import Flags
from omewd.model.spec import StreamSpec
from omewd.ngff import ledger, metadata
from omewd.writer.backends.base import Piece
from omewd.writer.filesystem import sync_folder
from omewd.writer.publish import Publisher
from omewd.writer.shards import ShardPool, Shards
from omewd.writer.stopwatch import Stopwatch

STAGING = f"{ledger.FOLDER}/staging"
# Which frames are lost follows from the ledger too; this many runs of them fit in a message.
_LOST_RUNS = 1000


def _document(value: dict[str, object]) -> Iterable[Piece]:
    return (json.dumps(value, indent=2).encode(),)


def _publisher(folder: Path, spec: StreamSpec) -> Publisher:
    return Publisher(folder, folder / STAGING, durable=spec.durability == "fsync")


def check(spec: StreamSpec, dataset: Path, root: Path) -> Path:
    """Whether a dataset may be made there; returns where it really is, symbolic links followed.

    Raises OmewdError (outside_roots, output_exists, not_a_dataset).
    """
    _check_inside(dataset, root)
    _check_free(spec, dataset)
    return dataset.resolve()


def create(spec: StreamSpec, dataset: Path, root: Path, epoch: int) -> None:
    """Make a dataset's metadata, whole or not at all: it is made aside and renamed to its place.

    ``epoch`` marks it as this stream's: running this again leaves it as it is. Raises what :func:`check`
    raises; OSError.
    """
    if _epoch(dataset) == epoch:
        return
    check(spec, dataset, root)
    dataset.parent.mkdir(parents=True, exist_ok=True)
    check(spec, dataset, root)
    aside, old = _beside(dataset, "new", epoch), _beside(dataset, "old", epoch)
    shutil.rmtree(aside, ignore_errors=True)  # of a writer that was killed at this
    aside.mkdir()
    try:
        (aside / STAGING).mkdir(parents=True)
        frames = Plan.of(spec).frames_total or 0
        publisher = _publisher(aside, spec)
        documents = _image_documents(spec, frames)
        documents[f"{ledger.FOLDER}/zarr.json"] = ledger.summary_json(spec, state="writing", epoch=epoch)
        publisher.append(f"{ledger.FOLDER}/{ledger.FILE}", b"")
        publisher.publish(((path, _document(d)) for path, d in documents.items()), label="create")
        point("writer: dataset made aside")
        if dataset.exists():
            dataset.rename(old)
            point("writer: old dataset aside")
        try:
            aside.rename(dataset)
            point("writer: dataset in place")
        except OSError:
            if old.exists():
                old.rename(dataset)
            raise
        if spec.durability == "fsync":
            for folder in _folders_between(dataset.parent, root):
                sync_folder(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def reopen(spec: StreamSpec, dataset: Path, epoch: int) -> None:
    """Take a dataset up for writing, also one that was finalized: its stream had failed, and goes on."""
    staging = dataset / STAGING
    if not staging.exists():
        staging.mkdir(exist_ok=True)
        sync_folder(staging.parent)
    if _epoch(dataset) != epoch:
        document = {f"{ledger.FOLDER}/zarr.json": ledger.summary_json(spec, state="writing", epoch=epoch)}
        files = ((path, _document(d)) for path, d in document.items())
        _publisher(dataset, spec).publish(files, label=f"reopen-{os.getpid()}")


def undo(dataset: Path, epoch: int) -> None:
    """Take a dataset away that was made for a stream which never started, and put back what it had replaced.

    Wherever the making of it, or a run of this, was cut off.
    """
    if _epoch(dataset) == epoch:
        dataset.rename(_beside(dataset, "new", epoch))
    old = _beside(dataset, "old", epoch)
    if old.exists() and not dataset.exists():
        old.rename(dataset)
    sweep(dataset)


def recover(spec: StreamSpec, dataset: Path, epoch: int) -> dict[str, Any]:
    """Finalize a dataset whose ring is gone, to the frames that its ledger has: they are on disk.

    Returns {"found": whether it is there} and what :func:`finalize_by_ledger` does.
    """
    if _epoch(dataset) != epoch:  # it was never made, or is complete
        sweep(dataset)
        return {"found": False}
    with ledger.held(dataset):
        found = finalize_by_ledger(spec, dataset, "the machine was restarted")
    sweep(dataset)
    return {"found": True, **found}


def finalize_by_ledger(spec: StreamSpec, dataset: Path, ended_by: str, known_frames: int = 0) -> dict[str, Any]:
    """Write the final metadata for what the ledger has; ``known_frames`` are known to have been handed over.

    Returns {"received": one past the last frame index that it knows of, "written", "gaps", "lost": runs (first, count)
    of indexes below of which it does not say what became}.
    """
    received = max(ledger.received(dataset), known_frames)
    record = ledger.Ledger.read(dataset, received)
    status = record.status
    written = status.count(ledger.WRITTEN)
    gaps = status.count(ledger.SKIPPED) + status.count(ledger.DROPPED)
    lost = [(run.start(), run.end() - run.start()) for run in re.finditer(rb"\x00+", status)]
    finalize(
        spec,
        dataset,
        frames=received,
        written=written,
        gaps=gaps,
        lost=tuple(lost[:_LOST_RUNS]),
        lost_frames=sum(count for _, count in lost),
        ended_by=ended_by,
        failed=bool(lost),
        written_frames=record.written,
    )
    return {"received": received, "written": written, "gaps": gaps, "lost": lost[:_LOST_RUNS]}


def _beside(dataset: Path, which: str, epoch: int) -> Path:
    """Where a dataset is made ("new"), or what it replaces waits for its end ("old")."""
    return dataset.with_name(f".{dataset.name}.omewd-{which}-{epoch:x}")


def _epoch(dataset: Path) -> int | None:
    """The epoch of the stream that a dataset is being written for, None if it is not being written."""
    try:
        totals = json.loads((dataset / ledger.FOLDER / "zarr.json").read_text())["attributes"]["omewd"]
        return int(totals["epoch"]) if totals["state"] == "writing" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sweep(dataset: Path) -> None:
    """Remove what making a dataset has left beside it: the one it replaced, and what killed writers began."""
    for leftover in _leftovers(dataset):
        shutil.rmtree(leftover)


def has_leftovers(dataset: Path) -> bool:
    return bool(_leftovers(dataset))


def _leftovers(dataset: Path) -> list[Path]:
    prefixes = tuple(f".{dataset.name}.omewd-{which}-" for which in ("new", "old"))
    return [path for path in dataset.parent.iterdir() if path.name.startswith(prefixes)]


def _folders_between(folder: Path, root: Path) -> Iterable[Path]:
    """A folder and its parents, up to the data root."""
    yield folder
    while folder != root and root in folder.parents:
        folder = folder.parent
        yield folder


def grow(spec: StreamSpec, dataset: Path, frames: int) -> None:
    """Let the metadata of an unbounded array claim the first ``frames`` frames."""
    publisher = _publisher(dataset, spec)
    documents = {f"{metadata.ARRAY_PATH}/zarr.json": metadata.array_json(spec, frames)}
    publisher.publish(((path, _document(d)) for path, d in documents.items()), label="grow")


def finalize(
    spec: StreamSpec,
    dataset: Path,
    *,
    frames: int,
    written: int,
    gaps: int,
    lost: tuple[tuple[int, int], ...],
    lost_frames: int,
    ended_by: str,
    failed: bool,
    written_frames: Flags | None = None,
) -> None:
    """Seal what shards there are, write the final metadata for what has arrived, remove what was only for writing.

    Of a failed stream, or with ``written_frames`` (a flag a frame index), shards keep what the ledger has as written.
    Running it again gives the same.
    """
    (dataset / STAGING).mkdir(exist_ok=True)
    if failed and written_frames is None:
        written_frames = ledger.Ledger.read(dataset, frames).written
    publisher = _publisher(dataset, spec)
    _seal(spec, publisher, written_frames)
    documents = _image_documents(spec, frames)
    state = "failed" if failed else "complete"
    documents[f"{ledger.FOLDER}/zarr.json"] = ledger.summary_json(
        spec,
        state=state,
        received=frames,
        written=written,
        gaps=gaps,
        lost=lost,
        lost_frames=lost_frames,
        ended_by=ended_by,
    )
    publisher.publish(((path, _document(d)) for path, d in documents.items()), label="finalize")
    point("writer: finalized")
    shutil.rmtree(dataset / STAGING)
    if spec.durability == "fsync":
        publisher.sync_folders([dataset / ledger.FOLDER, dataset])


def seal_by_ledger(spec: StreamSpec, dataset: Path) -> None:
    """Seal the shards that are in progress, with what the ledger has as written."""
    _seal(spec, _publisher(dataset, spec), ledger.Ledger.read(dataset, ledger.received(dataset)).written)


def _seal(spec: StreamSpec, publisher: Publisher, written: Flags | None) -> None:
    with closing(ShardPool()) as pool:
        Shards(spec, publisher, Stopwatch(), pool).seal(written=written)


def _image_documents(spec: StreamSpec, frames: int) -> dict[str, dict[str, object]]:
    return {
        "zarr.json": metadata.image_group_json(spec, frames),
        f"{metadata.ARRAY_PATH}/zarr.json": metadata.array_json(spec, frames),
    }


def _check_inside(dataset: Path, root: Path) -> None:
    """Refuse a place outside the data root, also through symbolic links."""
    real_root, real_parent = root.resolve(), dataset.parent.resolve()
    if not (real_parent / dataset.name).is_relative_to(real_root) or dataset.is_symlink():
        raise OmewdError(
            "outside_roots",
            f"{dataset} leads outside the data root {root} (to {dataset.resolve()})",
            "Choose an output inside a data root, or start the daemon with another --data-root",
        )


def _check_free(spec: StreamSpec, dataset: Path) -> None:
    if not dataset.exists():
        return
    if not spec.overwrite:
        raise OmewdError(
            "output_exists", f"{dataset} is already there", "Choose another output, or --overwrite to replace it"
        )
    if not dataset.is_dir() or (any(dataset.iterdir()) and not _looks_like_zarr(dataset)):
        raise OmewdError(
            "not_a_dataset",
            f"{dataset} is not a Zarr dataset, so it is not overwritten",
            "Choose another output, or remove it yourself",
        )


def _looks_like_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))
