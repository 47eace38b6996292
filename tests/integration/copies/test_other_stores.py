"""Copies to gs:// and az:// URLs.

The XML interface of Google Cloud Storage is that of S3 in what a copy needs, so rclone's server stands in for it;
nothing signs there, and what only Google's servers do is not tested. Azure's own emulator is Azurite. It is there if
$OMEWD_AZURITE names its program, azurite-blob.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.copies.test_live import check, record, start
from tests.support.copies import LARGE, Lab, differences, finished, require_same_pixels
from tests.support.copies import omewd as command
from tests.support.daemons import daemon
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, Proxy, Sometimes, run_rclone, s3_server

AZURITE = os.environ.get("OMEWD_AZURITE")
# Azurite's account, which its documentation names.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass
class Other(Lab):
    """Another store. ``part``: what is in the path of a request that sends a part; ``fetch``: puts objects in place."""

    part: str = ""
    fetch: Callable[[], object] = lambda: None


@contextmanager
def google(folder: Path, config: Path) -> Iterator[Other]:
    with s3_server(folder, keys=False) as (port, _), closing(Proxy(port)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        names = ("client_email", "private_key", "private_key_id")
        account = {"gcs_base_url": address, "disable_oauth": True, **dict.fromkeys(names, "")}
        config.write_text(f"[stores.'gs://{BUCKET}']\nallow_http = true\nservice_account = '{json.dumps(account)}'\n")
        yield Other(folder, proxy, scheme="gs", part="partNumber=")


@contextmanager
def azure(folder: Path, config: Path) -> Iterator[Other]:
    assert AZURITE is not None
    options = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", "0"]
    folder.mkdir()
    with subprocess.Popen(
        [Path(AZURITE).absolute(), *options], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            said = next(line for line in server.stdout if "successfully listens" in line)
            port = int(said.rpartition(":")[2])
            drain = threading.Thread(target=server.stdout.read)
            drain.start()
            settings = {"TYPE": "azureblob", "ACCOUNT": ACCOUNT, "KEY": ACCOUNT_KEY}
            settings["ENDPOINT"] = f"http://127.0.0.1:{port}/{ACCOUNT}"
            run_rclone(settings, "mkdir", f"store:{BUCKET}")
            with closing(Proxy(port)) as proxy:
                table = {"endpoint": f"http://127.0.0.1:{proxy.port}/{ACCOUNT}", "account_name": ACCOUNT}
                table["account_key"] = ACCOUNT_KEY
                lines = [f"[stores.'az://{BUCKET}']", "allow_http = true", *(f"{k} = '{v}'" for k, v in table.items())]
                config.write_text("\n".join(lines))
                here = folder / BUCKET

                def fetch() -> None:
                    shutil.rmtree(here, ignore_errors=True)
                    run_rclone(settings, "copy", f"store:{BUCKET}", str(here))

                yield Other(folder, proxy, scheme="az", part="comp=block&", fetch=fetch)
        finally:
            server.kill()
    drain.join()


has_azurite = pytest.mark.skipif(AZURITE is None, reason="OMEWD_AZURITE names no program")
STORES = {"gs": google, "az": azure}


@pytest.fixture(params=["gs", pytest.param("az", marks=has_azurite)])
def other(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    config = tmp_path / "omewd.toml"
    config.touch(0o600)
    monkeypatch.setenv("OMEWD_CONFIG", str(config))
    with STORES[request.param](tmp_path / "server", config) as lab:
        yield lab


def copied(dataset: Path, other: Other) -> None:
    """The copy is complete: by its own record, byte for byte, and as zarr-python reads it."""
    deep = command("verify", other.url, "--deep")
    assert (deep.returncode, deep.stdout.splitlines()[-1]) == (0, "all is well"), deep.stdout
    other.fetch()
    assert differences(dataset, other.copy) == []
    require_same_pixels(dataset, other.url)


def test_small_and_large_files_are_copied(other: Other, tmp_path: Path) -> None:
    for other.number, dims in enumerate((LARGE, "t:60:1:2,y:16:8:2,x:16:8:2"), 1):
        dataset = finished(tmp_path, f"cam{other.number}", dims)
        done = command("copy", str(dataset), other.url)
        assert done.returncode == 0, done.stderr
        copied(dataset, other)
        again = command("copy", str(dataset), other.url, "--json")
        assert json.loads(again.stdout)["copied_files"] == 0
    assert any(other.part in path for _, path in other.proxy.seen)
    key = ACCOUNT_KEY.encode()
    assert not [path for path in dataset.rglob("*") if path.is_file() and key in path.read_bytes()]


def test_faults_and_a_kill_in_the_middle(other: Other, tmp_path: Path) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    begun = threading.Event()
    other.proxy.faults = lambda _, path, __: begun.set() if other.part in path else None
    arguments = [sys.executable, "-m", "omewd", "copy", str(dataset), other.url, "--limit", "4MB/s"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        assert begun.wait(100)
        process.kill()
    other.proxy.faults = faults = Sometimes(3, ("503", "cut", "deaf", "truncated", "damaged"), 0.2)
    for _ in range(20):
        if command("copy", str(dataset), other.url).returncode == 0:
            break
    other.proxy.faults = lambda *_: None
    assert faults.happened.total() > 2
    copied(dataset, other)


def test_a_stream_is_copied(other: Other, tmp_path: Path) -> None:
    with daemon(tmp_path / "daemon", "--memory", "256MiB") as process:
        spec = start(process, other)
        with process.connect("cam") as producer:
            record(producer, spec, 0, 22)
            wait_for(lambda: producer.copied == 20)
            record(producer, spec, 22, 48)
        process.client.wait("cam", 60, copied=True)
        other.fetch()
        check(process, other, spec)
        assert ACCOUNT_KEY not in process.log()


def test_what_is_missing_or_refused_is_said(other: Other, dataset: Path, tmp_path: Path) -> None:
    """Without a bucket, and with a wrong key where there are keys."""
    config = tmp_path / "omewd.toml"
    other_bucket = config.read_text().replace(f"//{BUCKET}'", f"//{BUCKET}-2'")
    config.write_text(other_bucket)
    missing = command("copy", str(dataset), f"{other.scheme}://{BUCKET}-2/cam", "--json")
    assert json.loads(missing.stdout)["error"]["code"] == "store_missing", missing.stdout
    if other.scheme == "az":
        config.write_text(other_bucket.replace(ACCOUNT_KEY, "A" + ACCOUNT_KEY[1:]))
        refused = command("copy", str(dataset), f"{other.scheme}://{BUCKET}-2/cam", "--json")
        assert json.loads(refused.stdout)["error"]["code"] == "store_refused", refused.stdout
        assert ACCOUNT_KEY[1:] not in refused.stdout + refused.stderr
