"""A dataset on disk as a whole: its creation at the start, and its final metadata at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

from omewd.dataset import metadata, omero
from omewd.dataset.beside import beside, sweep
from omewd.dataset.copies.evictions import require_for_writing
from omewd.dataset.copies.manifest import path_for, reserve_lines
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.appending import append_to
from omewd.dataset.ledger.reading import RUNS_ASIDE
from omewd.dataset.ledger.runs import RUNS_FILE, header, sync_runs
from omewd.dataset.made_by import MadeBy
from omewd.dataset.strays import remove_asides, remove_strays
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.contrast import Window
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, Written
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.process.faultpoints import point
from omewd.process.names import sync_folder
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.publish import Publisher, lay_out
from omewd.store.sinks.shards import ShardSink
from omewd.store.tools import Tools
from omewd.store.unsynced import Unsynced

_SUMMARY = f"{ledger.FOLDER}/zarr.json"


def _texts(documents: Iterable[tuple[str, metadata.Document]]) -> Iterator[tuple[str, bytes]]:
    return ((path, document.text) for path, document in documents)


def _publisher(folder: Path, spec: StreamSpec) -> Publisher:
    return Publisher(folder, folder / STAGING, durable=spec.durability == "fsync")


def check(spec: StreamSpec, dataset: Path, root: Path) -> Path:
    """Check whether a dataset may be created at a path; returns the path with symbolic links resolved.

    Raises OmewdError ``outside_roots``, ``output_exists``, ``not_a_dataset``.
    """
    _check_inside(dataset, root)
    _check_free(spec, dataset)
    return dataset.resolve()


def create(spec: StreamSpec, dataset: Path, root: Path, epoch: int, made_by: MadeBy | None = None) -> None:
    """Create a dataset with its metadata atomically: it is made aside and renamed to its place.

    ``epoch`` marks it as this stream's, so running this again does not change it. ``made_by``: what encodes its pixels.
    Raises the errors of :func:`check`, and OSError.
    """
    if _epoch(dataset) == epoch:
        return
    check(spec, dataset, root)
    dataset.parent.mkdir(parents=True, exist_ok=True)
    check(spec, dataset, root)
    aside, old = beside(dataset, "new", epoch), beside(dataset, "old", epoch)
    shutil.rmtree(aside, ignore_errors=True)  # from a writer that was killed here
    aside.mkdir()
    try:
        frames = [Plan.of(spec, source=source).frames_total or 0 for source in range(spec.sources)]
        summary = ledger.summary_json(spec, state="writing", epoch=epoch, made_by=made_by)
        own = [
            (_SUMMARY, metadata.text_of(summary)),
            (f"{ledger.FOLDER}/{ledger.FILE}", b""),
            (f"{ledger.FOLDER}/{RUNS_FILE}", header()),
        ]
        manifest = path_for(Address.parse(spec.copy_to).url) if spec.copy_to and spec.copy_evict else None
        own += [(manifest, b"")] if manifest else []
        with Unsynced(aside) as unsynced:
            lay_out(aside, chain(_texts(metadata.documents(spec, frames)), own), unsynced)
            (aside / STAGING).mkdir()
            unsynced.add(folders=[str(aside / STAGING)])
            if spec.durability == "fsync":
                unsynced.sync()
        if manifest:
            reserve_lines(aside / manifest)
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


def reopen(spec: StreamSpec, dataset: Path, epoch: int, below: Sequence[int] = ()) -> None:
    """Open a dataset for writing, even a finalized one, whose stream had failed and goes on.

    ``below``: for each source, the frame index below which all are in finished units; none for 0. Raises the errors of
    :func:`require_own`, and ``evicted`` if a key that is to be written was evicted. Then it changes nothing.
    """
    require_own(dataset, epoch)
    goes_on = _epoch(dataset) != epoch
    if goes_on:
        require_for_writing(spec, dataset, below)
    staging = dataset / STAGING
    if not staging.exists():
        staging.mkdir(exist_ok=True)
        sync_folder(staging.parent)
    if goes_on:
        made_by = MadeBy.of(summary_of(dataset))
        summary = ledger.summary_json(spec, state="writing", epoch=epoch, made_by=made_by)
        files = [(_SUMMARY, metadata.text_of(summary))]
        _publisher(dataset, spec).publish(files, label=f"reopen-{os.getpid()}")


def require_own(dataset: Path, epoch: int) -> None:
    """Raise OmewdError ``dataset_replaced`` unless the dataset is that of the stream with this epoch."""
    if (summary := summary_of(dataset)).get("epoch") == epoch:
        return
    what = f"{dataset} is no longer the dataset of this stream"
    if summary:
        stream = summary.get("stream")
        name = stream.get("name") if isinstance(stream, dict) else None
        what = f"{what}: the dataset of stream {str(name)[:80]!r} is in its place"
    elif not os.path.lexists(dataset):
        what = f"{dataset}, the dataset of this stream, no longer exists"
    raise replaced(what)


def replaced(what: str) -> OmewdError:
    """The error for a stream whose dataset is not in its place."""
    return OmewdError(
        "dataset_replaced",
        what,
        "Put it back and use omewd resume-stream, or discard its frames with omewd stop-stream",
    )


def undo(dataset: Path, epoch: int) -> None:
    """Undo the creation of a dataset whose stream never started, and put back the dataset that it had replaced.

    This works wherever the creation, or an earlier run of this, was interrupted. It only renames; :func:`sweep` removes
    what is left.
    """
    if _epoch(dataset) == epoch:
        aside = beside(dataset, "new", epoch)
        shutil.rmtree(aside, ignore_errors=True)  # a power cut in the middle of the rename may leave both names
        dataset.rename(aside)
    old = beside(dataset, "old", epoch)
    if old.exists() and not dataset.exists():
        old.rename(dataset)
    if dataset.parent.exists():
        sync_folder(dataset.parent)  # before the journal forgets it


def recover(spec: StreamSpec, dataset: Path, epoch: int) -> list[Totals] | None:
    """Finalize a dataset whose ring is gone, to the frames that its ledger has: they are on disk.

    Returns the totals of each source by that; None if there is no such dataset to recover, or it has its totals. What a
    writer has left in staging is seen to in either case.
    """
    found = None
    if _epoch(dataset) == epoch:
        with ledger.held(dataset):
            found = finalize_by_ledger(spec, dataset, "the machine was restarted")
    elif summary_of(dataset).get("epoch") == epoch:
        with ledger.held(dataset):
            remove_leftovers(spec, dataset)
    sweep(dataset, epoch)
    return found


def finalize_by_ledger(
    spec: StreamSpec,
    dataset: Path,
    ended_by: str,
    known_frames: Sequence[int] | None = None,
    *,
    failed: bool = False,
    windows: Sequence[Window] = (),
) -> list[Totals]:
    """Write the final metadata by the ledger; returns each source's totals.

    Keys that are not in the ledger are removed. ``known_frames``: how many frames of each source are known to have been
    handed over; those that the ledger does not account for are lost. ``failed``: the stream has failed, whatever became
    of its frames.
    """
    record = Ledger.read(dataset, spec.sources, completes=True)
    counted = [account.received for account in record.accounts]
    received = [max(pair) for pair in zip(counted, known_frames or counted, strict=True)]
    totals = record.totals(received)
    failed = failed or any(each.lost_frames for each in totals)
    remove_strays(spec, dataset)
    written = [account.written for account in record.accounts]
    finalize(spec, dataset, totals=totals, ended_by=ended_by, failed=failed, written=written, windows=windows)
    return totals


def summary_of(dataset: Path) -> dict[str, Any]:
    """The summary that omewd stored in a dataset; {} if it can't be read."""
    summary = metadata.attributes_of(metadata.read(dataset / _SUMMARY)).get("omewd")
    return summary if isinstance(summary, dict) else {}


def _epoch(dataset: Path) -> int | None:
    """The epoch of the stream that is writing a dataset; None if it is not being written."""
    summary = summary_of(dataset)
    epoch = summary.get("epoch")
    return epoch if summary.get("state") == "writing" and isinstance(epoch, int) else None


def _folders_between(folder: Path, root: Path) -> Iterable[Path]:
    """A folder and its parents, up to the data root."""
    yield folder
    while folder != root and root in folder.parents:
        folder = folder.parent
        yield folder


def grow(spec: StreamSpec, dataset: Path, frames: Sequence[int]) -> None:
    """Grow the shape of unbounded arrays to the first ``frames`` frames of each source."""
    arrays = metadata.array_documents(spec, frames)
    _publisher(dataset, spec).publish(_changed(dataset, arrays), label="grow")


def _changed(dataset: Path, documents: Iterable[tuple[str, metadata.Document]]) -> Iterator[tuple[str, bytes]]:
    """The documents that say something else than those on disk, as text."""
    for path, document in documents:
        on_disk = metadata.bytes_of(dataset / path)
        if on_disk != document.text and metadata.parsed(on_disk) != document.json:
            yield path, document.text


def finalize(
    spec: StreamSpec,
    dataset: Path,
    *,
    totals: Sequence[Totals],
    ended_by: str,
    failed: bool,
    written: Sequence[Written] | None = None,
    windows: Sequence[Window] = (),
) -> None:
    """Seal the shards, write the final metadata for the received frames, and remove what only writing needed.

    ``totals``: of each source. ``written``: the written frames of each source, by the ledger; shards keep those.
    ``windows``: the known display windows of channels. Users' settings and additions stay. Running it again changes
    nothing.
    """
    (dataset / STAGING).mkdir(exist_ok=True)
    frames = [each.received for each in totals]
    publisher = _publisher(dataset, spec)
    append_to(dataset, b"", durable=publisher.durable)  # cuts off a torn line of a killed writer
    (dataset / ledger.FOLDER / RUNS_ASIDE).unlink(missing_ok=True)
    if publisher.durable:
        sync_runs(dataset)
    _seal(spec, publisher, written)
    state = "failed" if failed else "complete"
    before = summary_of(dataset)
    summary = ledger.summary_json(
        spec,
        state=state,
        epoch=before.get("epoch", 0),
        totals=totals,
        ended_by=ended_by,
        made_by=MadeBy.of(before),
    )
    documents = metadata.documents(spec, frames)
    # The state becomes durable last: until then, recovery does all of this again.
    was_cut_off = any((dataset / STAGING).glob("summary-*"))  # and may have synced no name of what it put in place
    there = [dataset / path for path, _ in metadata.documents(spec, frames)] if was_cut_off else []
    final = _changed(dataset, _final(spec, dataset, documents, windows))
    last = publisher.write_small_aside(_changed(dataset, [(_SUMMARY, metadata.Document(summary))]), label="summary")
    publisher.put_in_place(publisher.write_small_aside(final, label="finalize"), there)
    for aside, place in last:
        aside.rename(place)
    point("writer: finalized")
    shutil.rmtree(dataset / STAGING)
    remove_asides(dataset)
    if spec.durability == "fsync":
        publisher.sync_folders([dataset / ledger.FOLDER, dataset])


def _final(
    spec: StreamSpec,
    dataset: Path,
    documents: Iterable[tuple[str, metadata.Document]],
    windows: Sequence[Window],
) -> Iterator[tuple[str, metadata.Document]]:
    """Documents with what the groups on disk have, and with the images' windows.

    An image whose group is gone is shown like the others.
    """

    @cache
    def of_others() -> dict[str, Any]:
        groups = (metadata.read(dataset / path / "zarr.json") for path in spec.image_paths)
        known = (metadata.attributes_of(group).get("ome") for group in groups)
        return next(({"ome": ome} for ome in known if isinstance(ome, dict) and "omero" in ome), {})

    for path, document in documents:
        if document.is_array:
            yield path, document
            continue
        text = metadata.bytes_of(dataset / path)
        is_image = "multiscales" in document.json["attributes"].get("ome", {})
        if text == document.text and not (is_image and windows):
            yield path, document
            continue
        on_disk, own = metadata.attributes_of(metadata.parsed(text)), document.json["attributes"]
        merged = omero.with_windows(own, on_disk or of_others(), spec, windows) if is_image else {**on_disk, **own}
        yield path, metadata.Document({**document.json, "attributes": merged})


def remove_leftovers(spec: StreamSpec, dataset: Path) -> bool:
    """Remove what killed writers have left in a dataset, once shards in progress are sealed; returns whether any was.

    Nobody may be writing. Raises OSError.
    """
    staging = dataset / STAGING
    are_there = staging.exists()
    if are_there:
        seal_by_ledger(spec, dataset)
        shutil.rmtree(staging)
    are_there |= remove_asides(dataset)
    if are_there:
        sync_folder(dataset / ledger.FOLDER)
    return are_there


def seal_by_ledger(spec: StreamSpec, dataset: Path) -> None:
    """Seal the shards in progress, with the frames that are written by the ledger's lines.

    Sealing drops the other chunks for good, so the record of runs is not trusted.
    """
    record = Ledger.read(dataset, spec.sources, checks=True)
    _seal(spec, _publisher(dataset, spec), [account.written for account in record.accounts])


def _seal(spec: StreamSpec, publisher: Publisher, written: Sequence[Written] | None) -> None:
    layouts = (ShardLayout(spec, level, source) for level, source in product(levels_of(spec), range(spec.sources)))
    with closing(Tools()) as tools, closing(ShardSink(publisher, tools)) as sink:
        sink.seal_all(layouts, written)


def _check_inside(dataset: Path, root: Path) -> None:
    """Raise OmewdError for a path outside the data root, even through symbolic links."""
    real_root, real_parent = root.resolve(), dataset.parent.resolve()
    if not (real_parent / dataset.name).is_relative_to(real_root) or dataset.is_symlink():
        raise OmewdError(
            "outside_roots",
            f"{dataset} leads outside the data root {root} (to {dataset.resolve()})",
            "Choose an output inside a data root, or start the daemon with another one: omewd serve --data-root",
        )


def _check_free(spec: StreamSpec, dataset: Path) -> None:
    if not dataset.exists():
        return
    if not spec.overwrite:
        raise OmewdError(
            "output_exists",
            f"{dataset} is already there",
            "Choose another output, or pass `overwrite=True` to replace it",
        )
    if not dataset.is_dir() or (any(dataset.iterdir()) and not _looks_like_zarr(dataset)):
        raise OmewdError(
            "not_a_dataset",
            f"{dataset} is not a Zarr dataset, so it is not overwritten",
            "Choose another output, or remove it yourself",
        )


def _looks_like_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))
