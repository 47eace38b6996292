"""Copies to Ceph's gateway, the S3 of many institutes: $OMEWD_CEPH says that it may be started here."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from omewd.dataset.copies.manifest import FOLDER, read
from tests.integration.copies.test_live import check, record, start
from tests.support.ceph import PACKAGES, ceph_gateway, missing_programs
from tests.support.copies import Lab, differences, finished, require_same_pixels
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess
from tests.support.s3 import BUCKET, Proxy, Sometimes, environment, uploads_in_progress, with_rclone

pytestmark = [
    pytest.mark.stress,
    pytest.mark.timeout(600),
    pytest.mark.skipif("OMEWD_CEPH" not in os.environ, reason="OMEWD_CEPH does not ask for it"),
]
# One shard of 40 MiB, which goes up in parts.
LARGE = "t:80:1:80,y:512,x:512"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert missing_programs() == [], f"Run: sudo apt-get install --no-install-recommends {PACKAGES}"
    with ceph_gateway(tmp_path_factory.mktemp("ceph")) as port:
        yield port


@pytest.fixture
def lab(gateway: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """The gateway behind a proxy. Its objects are in a folder once they are downloaded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(Proxy(gateway)) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield Lab(tmp_path / "downloaded", proxy)
    with_rclone(gateway, "delete", f"store:{BUCKET}")


def download(lab: Lab) -> None:
    shutil.rmtree(lab.folder, ignore_errors=True)
    with_rclone(lab.proxy.server_port, "copy", f"store:{BUCKET}", str(lab.folder / BUCKET))


def confirmed_by(dataset: Path) -> Counter[str]:
    """How many files were confirmed, by how."""
    [manifest] = (dataset / FOLDER).glob("*.jsonl")
    found = read(manifest.read_bytes().splitlines(keepends=True))
    assert found is not None
    return Counter(copied.by for copied in found[1].values())


def _part_is_sent(lab: Lab, number: int) -> threading.Event:
    """An event that comes with the next part of this number."""
    sent = threading.Event()
    lab.proxy.faults = lambda _, path, __: sent.set() if f"partNumber={number}&" in path else None
    return sent


def test_a_dataset_is_copied_and_zarr_reads_it(lab: Lab, tmp_path: Path) -> None:
    """Large files in parts and many small ones; no byte is sent back to be compared."""
    for lab.number, dims in enumerate((LARGE, "t:400:1:1,y:64,x:64"), 1):
        dataset = finished(tmp_path, f"cam{lab.number}", dims)
        done = command("copy", str(dataset), lab.url)
        assert done.returncode == 0, done.stderr
        print(f"\n{done.stdout}", end="")
        assert set(confirmed_by(dataset)) == {"etag"}
        deep = command("verify", lab.url, "--deep")
        assert (deep.returncode, deep.stdout.splitlines()[-1]) == (0, "all is well"), deep.stdout
        download(lab)
        assert differences(dataset, lab.copy) == []
        require_same_pixels(dataset, lab.url)


def test_a_copy_that_is_killed_leaves_no_upload_once_it_goes_on(lab: Lab, tmp_path: Path) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    begun = _part_is_sent(lab, 3)
    arguments = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--limit", "8MB/s"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        assert begun.wait(100)
        process.kill()
    assert f"{lab.path}/0/c/0/0/0" in uploads_in_progress(lab.proxy.server_port)
    done = command("copy", str(dataset), lab.url)
    assert done.returncode == 0, done.stderr
    assert uploads_in_progress(lab.proxy.server_port) == []
    download(lab)
    assert differences(dataset, lab.copy) == []


def test_kills_and_faults_at_random(lab: Lab, tmp_path: Path) -> None:
    """$OMEWD_COPY_KILLS kills over a bad network, each copy to a new place; no upload is left of any in the end."""
    kills, seed = int(os.environ.get("OMEWD_COPY_KILLS", "10")), int(os.environ.get("OMEWD_SEED", "1"))
    chance = random.Random(seed)
    dataset = finished(tmp_path, dims=LARGE)
    done = left = 0
    while done < kills:
        for _ in range(3):
            lab.proxy.faults = Sometimes(chance.randrange(1 << 30), ("503", "cut", "deaf"), 0.1)
            arguments = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--limit", "16MB/s"]
            with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(0.8 + 2 * chance.random())
                except subprocess.TimeoutExpired:
                    process.kill()
                    done += 1
            left += len(uploads_in_progress(lab.proxy.server_port))
        lab.proxy.faults = lambda *_: None
        assert command("copy", str(dataset), lab.url).returncode == 0, f"seed {seed}"
        assert uploads_in_progress(lab.proxy.server_port) == [], f"seed {seed}"
        download(lab)
        assert differences(dataset, lab.copy) == [], f"seed {seed}"
        for path in (dataset / FOLDER).iterdir():
            path.unlink()
        lab.number += 1
    assert left, "no kill has left anything"
    print(f"\n{done} kills have left {left} uploads; all are aborted")


def test_a_stream_is_copied_though_its_daemon_is_killed(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "daemon"
    options = ("--memory", "1GiB")
    process = DaemonProcess(folder, *options)
    try:
        spec = start(process, lab, "t:120:1:40,y:512,x:512")  # three shards of 20 MiB
        with process.connect("cam") as producer:
            for first in range(0, 120, 40):
                begun = _part_is_sent(lab, 1)
                record(producer, spec, first, first + 40)
                assert begun.wait(100)
                before = producer.copied
                process.kill()
                process = DaemonProcess(folder, *options)
                assert producer.copied >= before
        process.client.wait("cam", 120, copied=True)
        assert uploads_in_progress(lab.proxy.server_port) == []
        assert set(confirmed_by(process.data / "cam.ome.zarr")) == {"etag"}
        download(lab)
        check(process, lab, spec)
        assert process.stop() == 0, process.log()
    finally:
        process.kill()
