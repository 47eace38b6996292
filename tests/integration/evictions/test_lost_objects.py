"""Nothing is evicted because of a record alone: the store has to have the object now."""

from __future__ import annotations

from pathlib import Path

import pytest

from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset.keys import Keys, files_in
from omewd.dataset.ledger import ledger
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.process.faultpoints import VARIABLE
from tests.support.copies import Lab, finished
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, environment, with_rclone

KEYS = ("0/c/1/0/0", "0/c/4/0/0", "0/c/5/0/0")


def in_store(lab: Lab, key: str) -> str:
    return f"store:{BUCKET}/{lab.path}/{key}"


def keys_here(dataset: Path) -> list[str]:
    keys = Keys(ledger.totals_of(dataset)[1])
    return sorted(path for path in files_in(str(dataset)) if keys.units_of(path))


def test_row_33_objects_that_somebody_removed_are_copied_again_before_files_are_evicted(
    tmp_path: Path, lab: Lab
) -> None:
    dataset = finished(tmp_path)
    copy(dataset, lab.url)
    removed, changed, left = KEYS
    content = (dataset / changed).read_bytes()
    (tmp_path / "other").write_bytes(content[::-1])
    with_rclone(lab.proxy.port, "deletefile", in_store(lab, removed))
    with_rclone(lab.proxy.port, "copyto", str(tmp_path / "other"), in_store(lab, changed))
    outcome = copy(dataset, lab.url, evict=True)
    assert (outcome.copied_files, outcome.evicted_files, keys_here(dataset)) == (2, 12, [])
    assert verify_copy(lab.url, deep=True).problems == []
    assert (lab.copy / changed).read_bytes() == content
    assert (verify(dataset).problems, (lab.copy / left).exists()) == ([], True)


def test_row_33_all_of_a_store_is_gone_and_comes_again(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path)
    copy(dataset, lab.url)
    with_rclone(lab.proxy.port, "purge", in_store(lab, ""))
    outcome = copy(dataset, lab.url, evict=True)
    assert (outcome.copied_files, outcome.evicted_files) == (outcome.files, 12)
    assert verify_copy(lab.url, deep=True).problems == []


def test_row_33_no_more_is_evicted_if_the_store_has_lost_what_was(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path)
    copy(dataset, lab.url, evict=True)
    kept = KEYS[0]
    (dataset / kept).parent.mkdir(parents=True)
    (dataset / kept).write_bytes((lab.copy / kept).read_bytes())
    with_rclone(lab.proxy.port, "deletefile", in_store(lab, KEYS[1]))
    with pytest.raises(OmewdError, match=f"1 files of .* such as {KEYS[1]}") as error:
        copy(dataset, lab.url, evict=True)
    assert (error.value.code, keys_here(dataset)) == ("copy_differs", [kept])


def test_row_33_a_copier_was_killed_before_it_evicted_and_the_object_is_gone(tmp_path: Path, lab: Lab) -> None:
    """The daemon goes on later, and does not rely on its record of long ago."""
    spec = make_spec("cam", "t:8:1:4,y:16,x:16", copy_to=lab.url, copy_evict=True, backend="direct")
    folder, died = tmp_path / "daemon", tmp_path / "died"
    env = environment(lab.proxy.port)
    lab.proxy.faults = lambda *_: "503" if died.exists() else None
    process = DaemonProcess(folder, "--memory", "256MiB", env={**env, VARIABLE: f"copier: on record;1;{died}"})
    try:
        process.client.start_stream(spec)
        dataset, producer = process.data / "cam.ome.zarr", process.connect("cam")
        for index in range(4):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
        wait_for(died.exists)
        process.kill()
        assert keys_here(dataset) == ["0/c/0/0/0"]
        lab.proxy.faults = lambda *_: None
        with_rclone(lab.proxy.port, "deletefile", in_store(lab, "0/c/0/0/0"))
        process = DaemonProcess(folder, "--memory", "256MiB", env=env)
        wait_for(lambda: process.client.status("cam")["copy"]["evicted_bytes"])
        producer.close()
        process.client.wait("cam", 60, copied=True)
        assert keys_here(dataset) == []
        assert verify_copy(lab.url, deep=True).problems == []
        assert process.stop() == 0, process.log()
    finally:
        process.kill()
