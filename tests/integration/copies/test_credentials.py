"""Credentials in the configuration file: they are taken from there, and are shown nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from omewd.dataset.copies.manifest import FOLDER
from tests.support.copies import Lab, differences
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, KEY, SECRET, environment


@pytest.fixture
def config(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with what the environment of ``lab`` had. What there is now, is wrong."""
    for name in environment(0):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-another-store")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-store")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://of-another-store.invalid")
    table = {
        "endpoint": environment(lab.proxy.port)["AWS_ENDPOINT_URL"],
        "region": "us-east-1",
        "access_key_id": KEY,
        "secret_access_key": SECRET,
    }
    lines = [f'[stores."s3://{BUCKET}/runs"]', "allow_http = true", *(f'{key} = "{table[key]}"' for key in table)]
    path = tmp_path / "omewd.toml"
    path.touch(0o600)
    path.write_text("\n".join(lines))
    return path


def shown() -> list[str]:
    """The command lines of all processes that show the secret, but of the server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [
                text for text in [path.read_text(errors="replace")] if SECRET in text and "--auth-key" not in text
            ]
    return found


def files_with_the_secret(folder: Path, config: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and path != config]
    assert len(files) > 15
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_table_has_the_credentials_and_nothing_shows_them(
    dataset: Path, lab: Lab, config: Path, tmp_path: Path
) -> None:
    daemon = DaemonProcess(tmp_path / "daemon", "--log-level", "debug", env={"OMEWD_CONFIG": str(config)})
    try:
        daemon.client.start_stream(make_spec("cam", "t:2,y:16,x:16"))
        with daemon.connect("cam") as producer:
            for index in range(2):
                producer.append(make_frame(index, (16, 16), "uint16"))
        daemon.client.wait("cam")
        arguments = [sys.executable, "-m", "omewd", "--config", str(config), "copy", str(dataset), lab.url]
        with subprocess.Popen(
            [*arguments, "--limit", "10kB/s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as slow:
            wait_for(lambda: any(path.stat().st_size for path in (dataset / FOLDER).glob("*.jsonl")))
            assert shown() == []
            slow.kill()
            assert slow.stdout is not None
            assert SECRET not in slow.stdout.read()
        env = {"OMEWD_CONFIG": str(config)}
        done = command("copy", str(dataset), lab.url, env=env)
        assert done.returncode == 0, done.stderr
        assert differences(dataset, lab.copy) == []
        assert command("verify", lab.url, "--deep", env=env).returncode == 0
        assert SECRET not in json.dumps(daemon.client.status())
    finally:
        daemon.stop()
    assert files_with_the_secret(tmp_path, config) == []


def test_refused_credentials_are_not_shown(dataset: Path, lab: Lab, config: Path, tmp_path: Path) -> None:
    """The server repeats in its answer what it was asked; the key that it refuses is part of the secret."""
    config.write_text(config.read_text().replace(KEY, f"{KEY}{SECRET}"))
    done = command("copy", str(dataset), lab.url, "--json", env={"OMEWD_CONFIG": str(config)})
    assert json.loads(done.stdout)["error"]["code"] == "store_refused", done.stdout
    assert files_with_the_secret(tmp_path, config) == []


def test_what_is_wrong_with_a_table_is_said_by_the_check_and_by_who_copies(
    dataset: Path, lab: Lab, config: Path
) -> None:
    check = ["--config", str(config), "serve", "--check", "--state-dir", str(config.parent), "--memory", "64MiB"]
    assert command(*check).returncode == 0
    config.chmod(0o644)
    copied = command("copy", str(dataset), lab.url, env={"OMEWD_CONFIG": str(config)})
    for done in (command(*check), copied):
        assert done.returncode != 0
        assert f"Run: chmod o= {config}" in done.stderr
    assert list((lab.folder / BUCKET).iterdir()) == []
