"""Large objects are confirmed by the ETags that a server gives them, whichever digest these are."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest

from omewd.copier.access.store import Target
from omewd.copier.copy import copy
from omewd.copier.digest import digest_of
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER, Copied, read
from tests.support.copies import LARGE, Lab, differences, finished

SHARD = "0/c/0/0/0"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return finished(tmp_path, dims=LARGE)


def recorded(dataset: Path) -> Copied:
    [manifest] = (dataset / FOLDER).glob("*.jsonl")
    found = read(manifest.read_bytes().splitlines(keepends=True))
    assert found is not None
    return found[1][SHARD]


def copy_anew(dataset: Path, lab: Lab) -> tuple[Copied, int]:
    """Copy the shard as if it had changed; returns what is on record, and how often it was read back."""
    os.utime(dataset / SHARD)
    del lab.proxy.seen[:]
    copy(dataset, lab.url)
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []
    path = f"/lab/{lab.path}/{SHARD}"
    reads = Counter(method for method, where in lab.proxy.seen if where == path)["GET"]
    return recorded(dataset), reads - 1  # one is of verify


def test_a_server_that_gives_large_objects_the_md5_of_the_whole_is_believed_from_the_second_one_on(
    large: Path, lab: Lab
) -> None:
    """rclone's server is one."""
    data = (large / SHARD).read_bytes()
    first, reads = copy_anew(large, lab)
    assert (first.by, first.digest, reads) == ("read", digest_of([data], len(data))[1], 1)
    second, reads = copy_anew(large, lab)
    assert (second.by, second.digest, reads) == ("etag", hashlib.md5(data).hexdigest(), 0)


def test_a_server_that_goes_over_to_digests_of_parts_is_believed_too(
    large: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (large / SHARD).read_bytes()
    copy_anew(large, lab)
    in_parts = digest_of([data], len(data))[1]
    whole = hashlib.md5(data).hexdigest()
    from omewd.copier.access import store

    plain = store._plain
    monkeypatch.setattr(store, "_plain", lambda etag: in_parts if plain(etag) == whole else plain(etag))
    changed, reads = copy_anew(large, lab)
    assert (changed.by, changed.etag, reads) == ("read", in_parts, 1)
    again, reads = copy_anew(large, lab)
    assert (again.by, again.digest, reads) == ("etag", in_parts, 0)


def test_a_large_object_that_differs_is_never_confirmed_by_the_etag_of_another(
    large: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts other bytes of the same length there, just before the store is asked for the ETag."""
    copy_anew(large, lab)
    head = Target.head
    done: list[str] = []

    def intrude(target: Target, path: str) -> object:
        if path == SHARD and not done:
            done.append(path)
            size = (large / SHARD).stat().st_size
            target.put(SHARD, bytes(size))
        return head(target, path)

    monkeypatch.setattr(Target, "head", intrude)
    monkeypatch.setattr("omewd.copier.engine._FIRST_DELAY_S", 0.01)
    copied, _ = copy_anew(large, lab)
    assert done
    assert copied.by == "etag"
