"""Copies of finished datasets in an S3 store and on a server: exact, and noticed if they are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import obstore
import pytest

import omewd
from omewd.copier import batch
from omewd.copier.access.store import Target
from omewd.copier.copy import copy
from omewd.copier.engine import Engine, LocalFile, local_file
from omewd.copier.pace import Pace
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER, STORED, Copied
from omewd.dataset.keys import files_in
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.model.address import Address
from tests.support.copies import LARGE, Lab, differences, finished
from tests.support.copies import omewd as command
from tests.support.pages import example
from tests.support.places import DOCS
from tests.support.s3 import BUCKET, KEY, SECRET, environment


def puts(lab: Lab) -> list[str]:
    """The paths of objects that were put, in order; each part of a large one once."""
    start = f"/{BUCKET}/{lab.path}/"
    paths = [path.partition("?")[0] for method, path in lab.proxy.seen if method == "PUT"]
    return [path.removeprefix(start) for path in paths]


def test_a_copy_is_the_dataset_and_can_be_read(dataset: Path, lab: Lab) -> None:
    done = command("copy", str(dataset), lab.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{lab.url}: 18 files")
    assert "all confirmed; 18 files" in done.stdout
    assert differences(dataset, lab.copy) == []
    checked = command("verify", lab.url)
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "all is well"), checked.stdout
    deep = json.loads(command("verify", lab.url, "--deep", "--json").stdout)
    assert (deep["dataset"], deep["frames"], deep["written"], deep["problems"]) == (lab.url, 12, 12, [])
    assert verify(dataset).problems == []  # its manifest is nothing strange in it
    assert verify(lab.copy).problems == []


def test_metadata_come_last_and_the_root_after_all_others(dataset: Path, lab: Lab) -> None:
    copy(dataset, lab.url)
    names = [path.rpartition("/")[2] for path in puts(lab)]
    assert names.count("zarr.json") == 4
    first = names.index("zarr.json")
    assert set(puts(lab)[first - 2 : first]) == {"omewd/ledger.jsonl", "omewd/ledger.runs"}
    assert puts(lab)[-2:] == ["zarr.json", STORED]


def test_zarr_and_tensorstore_read_it(dataset: Path, lab: Lab) -> None:
    import tensorstore
    import zarr

    copy(dataset, lab.url)
    expected = np.asarray(zarr.open_array(str(dataset / "0"), mode="r")[...])
    assert expected.any()
    group = zarr.open_group(omewd.open_copy(lab.url), mode="r")
    array = group["0"]
    assert isinstance(array, zarr.Array)
    assert np.array_equal(np.asarray(array[...]), expected)
    with pytest.raises(ValueError, match="read-only"):
        group.create_group("other")
    kvstore = {
        "driver": "s3",
        "bucket": BUCKET,
        "path": f"{lab.path}/0/",
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
        "aws_region": "us-east-1",
    }
    found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result().read().result()
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.usefixtures("lab")
def test_the_program_of_the_page(dataset: Path) -> None:
    copy(dataset, "s3://lab/runs/cam0.ome.zarr")
    program = [sys.executable, "-c", example(DOCS / "guide" / "copying.md", "open")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.returncode) == ("(12, 16, 16)\n", 0), done.stderr


@pytest.mark.usefixtures("lab")
def test_the_commands_that_restore_a_dataset(tmp_path: Path) -> None:
    """As they stand on the page. What comes back is the dataset, and each byte of it is checked."""
    dataset = finished(tmp_path, dims="t:41:1:40,y:512,x:512")  # one file goes up in parts, whose ETag is no MD5
    copy(dataset, "s3://lab/runs/cam0.ome.zarr")
    folder = tmp_path / "restored"
    folder.mkdir()
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    endpoint = {"RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": os.environ["AWS_ENDPOINT_URL"]}
    env = {**os.environ, **endpoint, "PATH": programs, "RCLONE_CONFIG": "/dev/null"}
    commands = example(DOCS / "guide" / "copying.md", "restore", "sh").splitlines()

    def run(command: str) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", command]
        return subprocess.run(shell, env=env, cwd=folder, capture_output=True, text=True, timeout=100, check=False)

    for done in map(run, commands):
        assert done.returncode == 0, done.stderr + done.stdout
    restored = folder / "cam0.ome.zarr"
    assert differences(dataset, restored) == []
    shard = restored / "0/c/0/0/0"
    with shard.open("r+b") as file:
        file.write(bytes([shard.read_bytes()[0] ^ 1]))
    damaged = run(commands[-1])
    assert (damaged.returncode, "0/c/0/0/0 has other bytes" in damaged.stdout) == (5, True), damaged.stdout


def test_copying_again_copies_what_has_changed(dataset: Path, lab: Lab) -> None:
    first = copy(dataset, lab.url)
    assert first.copied_files == first.files
    lab.proxy.seen.clear()
    assert copy(dataset, lab.url).copied_files == 0
    assert puts(lab) == [STORED]
    document = json.loads((dataset / "zarr.json").read_text())
    document["attributes"]["mine"] = 1
    (dataset / "zarr.json").write_text(json.dumps(document))
    assert copy(dataset, lab.url).copied_files == 1
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url).problems == []


def test_a_large_file_goes_up_in_parts(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    outcome = copy(dataset, lab.url)
    assert outcome.bytes > 20 << 20
    assert sum("partNumber=" in path for _, path in lab.proxy.seen) == 3
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []


def test_no_more_is_in_memory_than_may_be(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (dataset / "0" / f"extra-{number}").write_bytes(bytes(300_000))
    monkeypatch.setattr(batch, "_MEMORY_BYTES", 1_000_000)
    really, lock, now, most = Engine.copy, threading.Lock(), 0, 0

    def counted(engine: Engine, dataset: Path, file: LocalFile, to: str | None = None) -> Copied:
        nonlocal now, most
        with lock:
            now += file.memory_bytes
            most = max(most, now)
        time.sleep(0.01)
        try:
            return really(engine, dataset, file, to)
        finally:
            with lock:
                now -= file.memory_bytes

    monkeypatch.setattr(Engine, "copy", counted)
    copy(dataset, f"file://{tmp_path}/copied.ome.zarr")
    assert 300_000 < most <= 1_000_000


def test_row_33_an_upload_that_ends_in_the_middle_is_aborted(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    stopping = threading.Event()
    lab.proxy.faults = lambda _, path, __: stopping.set() if "partNumber=2" in path else None
    engine = Engine(Target(Address.parse(lab.url)), Pace(10 << 20), stopping)
    with pytest.raises(OmewdError, match="interrupted"):
        engine.copy(dataset, local_file(dataset, "0/c/0/0/0"))
    assert any(method == "DELETE" and "uploadId=" in path for method, path in lab.proxy.seen)
    assert list(files_in(str(lab.copy))) == []


def test_row_33_a_command_that_is_stopped_aborts_its_uploads(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    begun = threading.Event()
    lab.proxy.faults = lambda _, path, __: begun.set() if "partNumber=1" in path else None
    command = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--limit", "4MB/s", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert begun.wait(100)
        process.terminate()
        output, _ = process.communicate(timeout=100)
    assert (process.returncode, json.loads(output)["error"]["code"]) == (1, "interrupted")
    assert any(method == "DELETE" and "uploadId=" in path for method, path in lab.proxy.seen)
    copy(dataset, lab.url)
    assert differences(dataset, lab.copy) == []


def test_a_limit_is_kept(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    start = time.monotonic()
    done = command("copy", str(dataset), lab.url, "--limit", "8MB/s", "--json")
    assert json.loads(done.stdout)["copied_bytes"] > 20 << 20
    assert time.monotonic() - start > 16 / 8  # the last of three parts waits for the two before it


def test_row_33_what_somebody_did_to_the_copy_is_found(dataset: Path, lab: Lab) -> None:
    copy(dataset, lab.url)
    target = Target(Address.parse(lab.url))
    key = "0/c/0/0/0"
    size = (dataset / key).stat().st_size
    target.put(key, b"x" * size)
    target.put("0/c/1/0/0", b"short")
    obstore.delete(target.store, "1/c/2/0/0")
    target.put("0/c/extra", b"")
    problems = verify_copy(lab.url).problems
    assert len(problems) == 4
    for start in (f"{key} was changed", "0/c/1/0/0 has 5 bytes", "1/c/2/0/0 is missing", "0/c/extra does not belong"):
        assert any(problem.startswith(start) for problem in problems), (start, problems)
    assert command("verify", lab.url).returncode == 5


def test_row_33_bytes_that_rot_under_an_etag_are_found_by_deep(dataset: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/copied.ome.zarr"
    copy(dataset, url)
    shard = tmp_path / "copied.ome.zarr" / "0/c/0/0/0"
    times, content = shard.stat(), bytearray(shard.read_bytes())
    content[10] ^= 1
    with shard.open("r+b") as file:
        file.write(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify_copy(url).problems == []
    assert verify_copy(url, deep=True).problems == ["0/c/0/0/0 has other bytes than those that were copied"]


def test_a_copy_that_was_not_finished_is_no_copy(dataset: Path, lab: Lab) -> None:
    with pytest.raises(OmewdError) as error:
        verify_copy(lab.url)
    assert error.value.code == "not_a_dataset"
    copy(dataset, lab.url)
    obstore.delete(Target(Address.parse(lab.url)).store, STORED)
    assert verify_copy(lab.url).problems == [
        f"{STORED} is missing: the copy was not finished, or not made by omewd copy"
    ]


def test_a_copy_without_its_summary_is_reported(dataset: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/copied.ome.zarr"
    copy(dataset, url)
    (tmp_path / "copied.ome.zarr" / "omewd" / "zarr.json").unlink()
    assert verify_copy(url).problems == [
        "omewd/zarr.json is missing",
        "omewd/zarr.json can't be read, so frames were not looked for",
    ]


def test_verifying_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OmewdError) as error:
        verify_copy(f"file://{tmp_path}/nothing/here")
    assert error.value.code == "store_missing"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_mounted_is_not_made_up(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(OmewdError, match="Mount the server") as error:
        copy(dataset, f"file://{tmp_path}/mnt/cam.ome.zarr")
    assert error.value.code == "store_missing"
    assert not (tmp_path / "mnt").exists()


def test_names_that_no_store_takes_are_refused(dataset: Path, tmp_path: Path) -> None:
    (dataset / "0" / "a\udc80b").write_bytes(b"")
    with pytest.raises(OmewdError, match="can't be the name of an object"):
        copy(dataset, f"file://{tmp_path}/copied.ome.zarr")


@pytest.mark.parametrize("name", ["a b", "ü", "x#1/y", "p%20q", "st*r", "q?", "~", "'", "[1]", "a+b&c=d"])
def test_names_arrive_as_they_are(dataset: Path, lab: Lab, tmp_path: Path, name: str) -> None:
    (dataset / name).parent.mkdir(exist_ok=True)
    (dataset / name).write_bytes(b"x")
    for url, there in (
        (lab.url, lab.copy),
        (f"file://{tmp_path}/mounted.ome.zarr", tmp_path / "mounted.ome.zarr"),
    ):
        copy(dataset, url)
        assert differences(dataset, there) == []
        assert verify_copy(url).problems == []


def test_keys_with_frames_that_are_in_no_manifest_are_missed(dataset: Path, tmp_path: Path) -> None:
    (dataset / "0/c/1/0/0").unlink()
    url = f"file://{tmp_path}/copied.ome.zarr"
    copy(dataset, url)
    assert verify_copy(url).problems == ["0/c/1/0/0 holds frames by the ledger, but was not copied"]


def test_row_33_nothing_of_others_is_overwritten(dataset: Path, lab: Lab) -> None:
    (lab.copy / "0").mkdir(parents=True)
    (lab.copy / "0" / "theirs").write_bytes(b"theirs")
    done = command("copy", str(dataset), lab.url)
    assert done.returncode == 1
    assert "something else" in done.stderr
    assert [path.name for path in lab.copy.rglob("*") if path.is_file()] == ["theirs"]
    assert not any(path.stat().st_size for path in (dataset / FOLDER).iterdir())


def test_a_dataset_whose_record_is_lost_is_copied_again(dataset: Path, lab: Lab) -> None:
    copy(dataset, lab.url)
    for path in (dataset / FOLDER).iterdir():
        path.unlink()
    assert copy(dataset, lab.url).copied_files == 18
    assert verify_copy(lab.url).problems == []


def test_a_dataset_in_the_making_is_refused(dataset: Path, tmp_path: Path) -> None:
    summary = dataset / "omewd" / "zarr.json"
    summary.write_text(summary.read_text().replace('"complete"', '"writing"'))
    with pytest.raises(OmewdError) as error:
        copy(dataset, f"file://{tmp_path}/copied.ome.zarr")
    assert error.value.code == "not_finished"


@pytest.mark.parametrize("inside", ["", "/0", "/..", "/new/folder"])
def test_a_dataset_is_not_copied_into_itself(dataset: Path, tmp_path: Path, inside: str) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(dataset)
    for place in (dataset, tmp_path / "link"):
        url = f"file://{place}{inside}" if inside != "/.." else f"file://{tmp_path}"
        with pytest.raises(OmewdError) as error:
            copy(dataset, url)
        assert error.value.code == "bad_url"
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_two_at_once_are_refused(dataset: Path, tmp_path: Path) -> None:
    from omewd.dataset.copies.manifest import Manifest

    url = f"file://{tmp_path}/copied.ome.zarr"
    held = Manifest(dataset, url, 1)
    with pytest.raises(OmewdError) as error:
        copy(dataset, url)
    held.close()
    assert error.value.code == "busy"
    copy(dataset, url)


@pytest.mark.parametrize(
    ("env", "url", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": f"{SECRET}-wrong"}, f"s3://{BUCKET}/x.ome.zarr", "store_refused"),
        ({"AWS_ENDPOINT_URL": "s3.lab.example"}, f"s3://{BUCKET}/x.ome.zarr", "store_refused"),
        ({"AWS_PROFILE": "nobody"}, f"s3://{BUCKET}/x.ome.zarr", "store_refused"),
        ({}, "s3://nosuchbucket/x.ome.zarr", "store_missing"),
        ({}, f"s3://{KEY}:{SECRET}@{BUCKET}/x.ome.zarr", "bad_url"),
        ({}, f"s3://{BUCKET}/x.ome.zarr?secret={SECRET}", "bad_url"),
        ({}, f"s3://{BUCKET}/", "bad_url"),
        ({}, f"ftp://{BUCKET}/x", "bad_url"),
        ({}, "file://host/x", "bad_url"),
    ],
)
@pytest.mark.usefixtures("lab")
def test_what_can_not_be_has_its_reason(dataset: Path, env: dict[str, str], url: str, code: str) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    done = command("copy", str(dataset), url, "--json", env=env)
    assert json.loads(done.stdout)["error"]["code"] == code, done.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_a_profile_file_has_the_credentials(
    dataset: Path, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(lab.proxy.port)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[lab]\n{keys}")
    place = f"region = us-east-1\nendpoint_url = {given['AWS_ENDPOINT_URL']}\n"
    (tmp_path / ".aws" / "config").write_text(f"[profile lab]\n{place}")
    done = command("copy", str(dataset), lab.url, env={"AWS_PROFILE": "lab"})
    assert done.returncode == 0, done.stderr
    assert differences(dataset, lab.copy) == []
    stored = [path for root in (dataset, lab.copy) for path in root.rglob("*") if path.is_file()]
    assert len(stored) > 30
    assert not [path for path in stored if SECRET.encode() in path.read_bytes() or KEY.encode() in path.read_bytes()]


def test_without_the_extra_it_says_what_to_install(dataset: Path, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "obstore.py").write_text("raise ImportError('no obstore')")
    path = f"{tmp_path / 'shadow'}:{os.environ.get('PYTHONPATH', '')}"
    done = command("copy", str(dataset), lab.url, env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert "pip install 'omewd[copy]'" in done.stderr
