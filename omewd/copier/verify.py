"""Verifies a copy where it is: by what the store says of its objects, or by all of their bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omewd.copier.access.fetch import OBJECTS_AT_ONCE, difference, each, fetch
from omewd.copier.access.store import Found, Target
from omewd.copier.digest import digest_of, is_whole
from omewd.copier.parts.state import Parts, parts_of
from omewd.dataset.checks.report import Report
from omewd.dataset.copies.manifest import STORED, Copied, lines_in, read
from omewd.dataset.keys import keys_with_frames
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.dataset.made_by import MadeBy
from omewd.dataset.verify import check_ledger, check_metadata
from omewd.errors import OmewdError
from omewd.model.address import Address

_LEDGER = (f"{ledger.FOLDER}/{ledger.FILE}", f"{ledger.FOLDER}/{RUNS_FILE}")


def verify_copy(url: str, *, deep: bool = False, progress: Callable[[int, int], None] | None = None) -> Report:
    """Verify a copy against its manifest, its ledger and its metadata. ``progress``: (objects done, objects in all).

    Each object must be there with its size, and be the version that was confirmed when it was copied; whoever changed
    it since is noticed by its etag. The keys with written frames must be there, and nothing else. Only metadata, ledger
    and manifest are downloaded. ``deep``: all objects are downloaded and compared with the digests in the manifest.
    Then etags don't count: a copy of a copy, whose objects have others, can be verified as well.

    Raises OmewdError ``not_a_dataset`` or ``store_missing`` if there is no copy, and the errors of
    :func:`omewd.copier.copy.copy` for stores.
    """
    target = Target(Address.parse(url))
    report = Report(target.url)
    stored = {found.path: found for found in target.listed()}
    manifest = _manifest(target)
    if manifest is None and (parts := parts_of(target)) is not None:
        _check_parts(parts, stored, report, deep=deep)
        manifest = {path: copied for part in parts.complete for path, copied in part.copied.items()}
    elif manifest is None:
        if f"{ledger.FOLDER}/zarr.json" not in stored:
            raise OmewdError("not_a_dataset", f"there is no copy of a dataset at {target.url}", "Correct the URL")
        report.problems.append(f"{STORED} is missing: the copy was not finished, or not made by omewd copy")
        return report
    else:
        _check_objects(manifest, stored, report, deep=deep)
        report.strays = sorted(path for path in stored if path not in manifest and path != STORED)
        report.problems.extend(f"{stray} does not belong there" for stray in report.strays)
        with tempfile.TemporaryDirectory(prefix="omewd-verify-") as folder:
            _check_contents(target, manifest, Path(folder), report)
    if deep:
        _check_bytes(target, [manifest[path] for path in sorted(manifest) if path in stored], report, progress)
    return report


def _manifest(target: Target) -> Mapping[str, Copied] | None:
    got = target.get(STORED)
    found = read(lines_in(got[1])) if got is not None else None
    return found[1] if found is not None else None


def _check_parts(parts: Parts, stored: Mapping[str, Found], report: Report, *, deep: bool) -> None:
    """Check the objects of a copy of several parts as far as it goes: not all are complete, or it was not completed."""
    for name in parts.missing_names:
        report.problems.append(f"source {name!r} is missing: the daemon that has it has not copied all of it yet")
    if not parts.missing:
        report.problems.append(f"{STORED} is missing: run omewd copy again for any of the parts, which are all there")
    for part in parts.complete:
        _check_objects(part.copied, stored, report, deep=deep)


def _check_objects(manifest: Mapping[str, Copied], stored: Mapping[str, Found], report: Report, *, deep: bool) -> None:
    """Compare what the store says of each object with the manifest. ``deep``: bytes are compared, instead of ETags."""
    for path, copied in manifest.items():
        found = stored.get(path)
        if found is None:
            report.problems.append(f"{path} is missing")
            continue
        report.keys += 1
        if found.size != copied.bytes:
            report.problems.append(f"{path} has {found.size} bytes, but {copied.bytes} were copied")
        elif found.etag != copied.etag and not deep:
            report.problems.append(f"{path} was changed since it was copied: its ETag is {found.etag[:80]!r}")


def _check_contents(target: Target, manifest: Mapping[str, Copied], folder: Path, report: Report) -> None:
    """Check the metadata and the ledger, and that the keys with written frames were copied."""
    wanted = [path for path in manifest if path.rpartition("/")[2] == "zarr.json" or path in _LEDGER]
    with ThreadPoolExecutor(OBJECTS_AT_ONCE, "verify") as threads:
        for copied, problem in each(
            threads, lambda one: fetch(target, one, folder / one.path), [manifest[p] for p in wanted]
        ):
            report.read_bytes += copied.bytes
            if problem:
                report.problems.append(problem)
    try:
        totals, spec = ledger.totals_of(folder)
    except OmewdError:
        report.problems.append(f"{ledger.FOLDER}/zarr.json can't be read, so frames were not looked for")
        return
    report.received = [each.received for each in ledger.totals_in(totals)]
    report.made_by = MadeBy.of(totals)
    check_metadata(folder, spec, report)
    accounts = check_ledger(folder, totals, report)
    missing = [key for key in keys_with_frames(spec, accounts, report.received) if key not in manifest]
    report.problems.extend(f"{key} holds frames by the ledger, but was not copied" for key in missing)


def _check_bytes(
    target: Target, objects: list[Copied], report: Report, progress: Callable[[int, int], None] | None
) -> None:
    with ThreadPoolExecutor(OBJECTS_AT_ONCE, "verify") as threads:
        for done, (copied, problem) in enumerate(each(threads, lambda one: _compare(target, one), objects), 1):
            report.read_bytes += copied.bytes
            if problem and problem not in report.problems:
                report.problems.append(problem)
            if progress is not None:
                progress(done, len(objects))


def _compare(target: Target, copied: Copied) -> str:
    got = target.get(copied.path)
    if got is None:
        return f"{copied.path} is missing"
    return difference(copied, *digest_of(got[1], copied.bytes, whole=is_whole(copied.digest)))
