"""Credentials in the configuration file: they are taken from there, and are shown nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from omewd.dataset.copies.manifest import FOLDER
from tests.support.copies import Lab, differences
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess, daemon
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, KEY, SECRET, environment
from tests.support.web import web


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


TOKEN = "a/session+token=of-a-table"
REFUSED = "no-text-may-show-this-one-either"
HIDDEN = (SECRET, REFUSED, TOKEN, quote(TOKEN, safe=""))


def processes_that_show_one() -> list[str]:
    """The command lines of all processes with something hidden, but of rclone, which is the server, and asks it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = path.read_text(errors="replace")
            program = text.partition("\0")[0]
            found += [text] if any(each in text for each in HIDDEN) and not program.endswith("rclone") else []
    return found


def files_that_show_one(folder: Path, *given: Path) -> list[Path]:
    """The files with something hidden, but those that it was given in."""
    files = [path for path in folder.rglob("*") if path.is_file() and path not in given]
    assert len(files) > 15
    contents = {path: path.read_bytes() for path in files}
    return [path for path, content in contents.items() if any(each.encode() in content for each in HIDDEN)]


def test_a_table_has_the_credentials_and_nothing_shows_them(
    dataset: Path, lab: Lab, config: Path, tmp_path: Path
) -> None:
    process = DaemonProcess(tmp_path / "daemon", "--log-level", "debug", env={"OMEWD_CONFIG": str(config)})
    try:
        process.client.start_stream(make_spec("cam", "t:2,y:16,x:16"))
        with process.connect("cam") as producer:
            for index in range(2):
                producer.append(make_frame(index, (16, 16), "uint16"))
        process.client.wait("cam")
        arguments = [sys.executable, "-m", "omewd", "--config", str(config), "copy", str(dataset), lab.url]
        with subprocess.Popen(
            [*arguments, "--limit", "10kB/s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as slow:
            wait_for(lambda: any(path.stat().st_size for path in (dataset / FOLDER).glob("*.jsonl")))
            assert processes_that_show_one() == []
            slow.kill()
            assert slow.stdout is not None
            assert SECRET not in slow.stdout.read()
        env = {"OMEWD_CONFIG": str(config)}
        done = command("copy", str(dataset), lab.url, env=env)
        assert done.returncode == 0, done.stderr
        assert differences(dataset, lab.copy) == []
        assert command("verify", lab.url, "--deep", env=env).returncode == 0
        assert SECRET not in json.dumps(process.client.status())
    finally:
        process.stop()
    assert files_that_show_one(tmp_path, config) == []


def test_a_daemon_that_copies_shows_no_credentials(lab: Lab, tmp_path: Path) -> None:
    """They are in its environment, in a file, and in a table, whose store refuses them and repeats the request."""
    place = f'endpoint = "{environment(lab.proxy.port)["AWS_ENDPOINT_URL"]}"\nallow_http = true\nregion = "us-east-1"'
    config, secret = tmp_path / "omewd.toml", tmp_path / "secret"
    for path in (config, secret):
        path.touch(0o600)
    secret.write_text(SECRET)
    config.write_text(
        f'[stores."s3://{BUCKET}/file"]\n{place}\naccess_key_id = "{KEY}"\nsecret_access_key_file = "secret"\n'
        f'[stores."s3://{BUCKET}/table"]\n{place}\naccess_key_id = "{KEY}"\nsecret_access_key = "{REFUSED}"\n'
        f'session_token = "{TOKEN}"\n'
    )
    copiers: list[list[str]] = []  # what is shown while one runs

    def faults(_method: str, path: str, _body: bytes) -> str | None:
        copiers.append(processes_that_show_one())
        return "echo" if "table" in path else None

    lab.proxy.faults = faults
    said: dict[str, str] = {}
    options = ("--log-level", "debug", "--memory", "256MiB")
    with daemon(tmp_path / "daemon", *options, env={"OMEWD_CONFIG": str(config)}) as process:
        for name in ("environment", "file", "table"):
            url = f"s3://{BUCKET}/{name}/cam.ome.zarr"
            process.client.start_stream(make_spec(name, "t:2,y:16,x:16", copy_to=url))
            with process.connect(name) as producer:
                for index in range(2):
                    producer.append(make_frame(index, (16, 16), "uint16"))
            if name != "table":
                process.client.wait(name, 60, copied=True)
        wait_for(lambda: (process.client.status("table")["copy"]["error"] or {}).get("code") == "store_refused")
        of_the_config = ("--config", str(config))
        for command in (
            ("status", "table"),
            ("status", "--json"),
            ("health",),
            ("health", "--json"),
            ("doctor", "--json"),
            (*of_the_config, "serve", "--check", "--memory", "64MiB"),
            (*of_the_config, "copy", "table.ome.zarr", f"s3://{BUCKET}/table/other"),
            (*of_the_config, "verify", url, "--json"),
        ):
            done = process.omewd(*command)
            said[" ".join(command)] = done.stdout + done.stderr
        with web(tmp_path, process.socket) as client:
            said |= {page: client.get(page).text for page in ("/metrics", "/api/status", "/api/summary")}
            with client.stream("GET", "/api/events") as events:
                said["events"] = next(events.iter_text())
        assert files_that_show_one(tmp_path, config, secret) == []
    assert files_that_show_one(tmp_path, config, secret) == []
    assert sum(map(len, copiers)) == 0 < len(copiers)
    assert "AccessDenied" in said["status --json"]
    assert "omewd_copy_failing" in said["/metrics"]
    assert [(what, each) for what, text in said.items() for each in (*HIDDEN, KEY) if each in text] == []


@pytest.mark.parametrize("line", [f"secret_access_key = {SECRET}", f'key = "{SECRET}"', f'"{SECRET}'])
def test_a_damaged_configuration_is_not_shown(dataset: Path, lab: Lab, config: Path, line: str) -> None:
    config.write_text(f"{config.read_text()}\n{line}\n")
    given = ("--config", str(config))
    for arguments in (("serve", "--check", "--memory", "64MiB"), ("copy", str(dataset), lab.url), ("verify", lab.url)):
        assert command(*given, *arguments).returncode != 0  # which looks for the secret


def test_refused_credentials_are_not_shown(dataset: Path, lab: Lab, config: Path, tmp_path: Path) -> None:
    """The server repeats in its answer what it was asked; the key that it refuses is part of the secret."""
    config.write_text(config.read_text().replace(KEY, f"{KEY}{SECRET}"))
    done = command("copy", str(dataset), lab.url, "--json", env={"OMEWD_CONFIG": str(config)})
    assert json.loads(done.stdout)["error"]["code"] == "store_refused", done.stdout
    assert files_that_show_one(tmp_path, config) == []


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
