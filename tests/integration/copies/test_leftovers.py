"""Uploads that a kill, or a lost answer, has left in a store: the copy that goes on aborts them, and no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from omewd.copier.access import uploads
from omewd.copier.access.store import Target
from omewd.copier.access.tables import table_for
from omewd.copier.access.uploads import Uploads
from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.errors import OmewdError
from omewd.model.address import Address
from tests.integration.copies.test_live import check, record, start
from tests.support.copies import LARGE, Lab, differences, finished
from tests.support.daemons import daemon
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, environment, uploads_in_progress

SHARD = "0/c/0/0/0"


def begin_upload(url: str, path: str) -> None:
    """An upload of which one part was sent, as a process leaves it that is killed then."""
    code = (
        "import os, sys, signal\n"
        "from omewd.copier.access.store import Target\n"
        "from omewd.model.address import Address\n"
        "def parts():\n"
        "    yield bytes(6 << 20)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Target(Address.parse(sys.argv[1])).put_parts(sys.argv[2], parts(), 6 << 20)"
    )
    done = subprocess.run([sys.executable, "-c", code, url, path], timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL


def kill_in_the_middle(dataset: Path, lab: Lab) -> None:
    """Kill a copy while a file goes up in parts, of which one is there."""
    begun = threading.Event()
    lab.proxy.faults = lambda _, path, __: begun.set() if "partNumber=2" in path else None
    command = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--limit", "4MB/s"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        assert begun.wait(100)
        process.kill()
    lab.proxy.faults = lambda *_: None
    assert uploads_in_progress(lab.proxy.port) == [f"{lab.path}/{SHARD}"]


def test_row_33_a_copy_that_goes_on_aborts_what_a_kill_has_left(tmp_path: Path, lab: Lab) -> None:
    """Uploads of others stay: for a file that the dataset has not, and for a dataset beside it."""
    dataset = finished(tmp_path, dims=LARGE)
    kill_in_the_middle(dataset, lab)
    begin_upload(lab.url, "0/c/not/mine")
    begin_upload(f"{lab.url}.other", SHARD)
    others = [f"{lab.path}/0/c/not/mine", f"{lab.path}.other/{SHARD}"]
    assert uploads_in_progress(lab.proxy.port) == sorted([*others, f"{lab.path}/{SHARD}"])
    copy(dataset, lab.url)
    assert uploads_in_progress(lab.proxy.port) == sorted(others)
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []


def test_row_33_an_upload_whose_beginning_was_not_heard_of_is_aborted(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    begun: list[str] = []

    def faults(method: str, path: str, _: bytes) -> str | None:
        if method == "POST" and path.partition("?")[2].startswith("uploads"):
            begun.append(path)
            return "deaf" if len(begun) == 1 else None
        return None

    lab.proxy.faults = faults
    copy(dataset, lab.url)
    assert len(begun) > 1
    assert uploads_in_progress(lab.proxy.port) == []
    assert differences(dataset, lab.copy) == []


def test_row_33_what_a_killed_copier_has_left_is_aborted_while_the_stream_goes_on(tmp_path: Path, lab: Lab) -> None:
    dims = "t:48:1:24,y:512,x:512"  # two shards of 12 MiB
    with daemon(tmp_path / "daemon", "--memory", "256MiB", env=environment(lab.proxy.port)) as process:
        begun = threading.Event()
        lab.proxy.faults = lambda _, path, __: begun.set() if "partNumber=1" in path else None
        spec = start(process, lab, dims, copy_limit=6_000_000.0)
        with process.connect("cam") as producer:
            record(producer, spec, 0, 24)
            assert begun.wait(60)
            [copier] = [one["pid"] for one in process.client.status()["copiers"]]
            os.kill(copier, signal.SIGKILL)
            wait_for(lambda: producer.copied == 24, 60)
            assert uploads_in_progress(lab.proxy.port) == []
            record(producer, spec, 24, 48)
        process.client.wait("cam", 60, copied=True)
        check(process, lab, spec)
    assert uploads_in_progress(lab.proxy.port) == []


def test_row_33_a_store_that_lists_no_uploads_is_copied_to_all_the_same(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    kill_in_the_middle(dataset, lab)
    for fault in ("503", "cut", "truncated", "garbled"):
        asked: list[str] = []

        def faults(method: str, path: str, _: bytes, fault: str = fault, asked: list[str] = asked) -> str | None:
            if method != "GET" or "uploads=" not in path:
                return None
            asked.append(path)
            return fault

        lab.proxy.faults = faults
        copy(dataset, lab.url)
        assert len(asked) == 2  # at the beginning, and at the end
        assert uploads_in_progress(lab.proxy.server_port) == [f"{lab.path}/{SHARD}"]
    assert differences(dataset, lab.copy) == []
    lab.proxy.faults = lambda *_: None
    copy(dataset, lab.url)
    assert uploads_in_progress(lab.proxy.server_port) == []


# The answer to a request, by its method and its path with the query.
Answers = Callable[[str, str], tuple[int, bytes]]


@contextmanager
def store(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """A store that answers so; yields the requests that it has had."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            seen.append((self.command, self.path.partition("&x-omewd")[0]))
            status, content = answers(self.command, self.path)
            self.send_response_only(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_DELETE = do_PUT = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HOME", "/nonexistent")  # whose profiles
    for name, value in environment(server.server_address[1]).items():
        monkeypatch.setenv(name, value)
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page(*keys: str, truncated: bool = False, more: str = "") -> bytes:
    found = "".join(f"<Upload><Key>{key}</Key><UploadId>a/b+c {key[-1]}</UploadId></Upload>" for key in keys)
    return (
        f"{more}<ListMultipartUploadsResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{found}<IsTruncated>"
        f"{str(truncated).lower()}</IsTruncated><NextKeyMarker>k&amp;k</NextKeyMarker><NextUploadIdMarker>u u"
        "</NextUploadIdMarker></ListMultipartUploadsResult>"
    ).encode()


def abort_all(url: str = "s3://lab/runs/cam") -> None:
    Target(Address.parse(url)).abort_left(lambda path: "x" not in path)


def test_pages_are_followed_and_only_own_keys_are_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(method: str, path: str) -> tuple[int, bytes]:
        if method == "DELETE":
            return (404 if "0/a" in path else 204), b""
        first = "key-marker" not in path
        keys = ("runs/cam/0/a", "runs/cam/x", "runs/cam", "other/b") if first else ("runs/cam/0/ü c",)
        return 200, page(*keys, truncated=first)

    with store(answers, monkeypatch) as seen:
        abort_all()
    list_path = "/lab/?uploads=&prefix=runs%2Fcam%2F"
    assert seen == [
        ("GET", list_path),
        ("DELETE", "/lab/runs/cam/0/a?uploadId=a%2Fb%2Bc%20a"),
        ("GET", f"{list_path}&key-marker=k%26k&upload-id-marker=u%20u"),
        ("DELETE", "/lab/runs/cam/0/%C3%BC%20c?uploadId=a%2Fb%2Bc%20c"),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        (200, page("runs/cam/a", more="<!DOCTYPE l [<!ENTITY e 'e'>]>")),
        (200, page(*(f"runs/cam/{number}" for number in range(80_000)))),
        (200, b"\xff\xfe no XML"),
        (301, page("runs/cam/a")),
        (403, b"<Error><Code>AccessDenied</Code></Error>"),
        (500, page("runs/cam/a")),
        (404, b""),
        (200, b""),
    ],
    ids=["declarations", "endless", "no XML", "redirected", "refused", "error", "none", "empty"],
)
def test_answers_that_are_no_list_abort_nothing(answer: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with store(lambda *_: answer, monkeypatch) as seen:
        abort_all()
    assert [method for method, _ in seen] == ["GET"]


def test_a_list_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MOST_PAGES", 7)
    with store(lambda *_: (200, page(truncated=True)), monkeypatch) as seen:
        abort_all()
    assert len(seen) == 7


def test_slow_aborts_are_left_to_the_next_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MOST_S", -1)
    with store(lambda *_: (200, page("runs/cam/a")), monkeypatch) as seen:
        abort_all()
    assert [method for method, _ in seen] == ["GET"]


def test_an_address_that_was_not_signed_as_it_was_meant_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its query, the request that aborts an upload deletes an object."""
    really = Uploads._sign

    def other(self: Uploads, method: str, options: dict[str, object]) -> str:
        signed = really(self, method, options)
        return signed.replace("uploadId=", "x-other=") if method == "DELETE" else signed

    monkeypatch.setattr(Uploads, "_sign", other)
    with store(lambda *_: (200, page("runs/cam/a")), monkeypatch) as seen:
        abort_all()
    assert [method for method, _ in seen] == ["GET"]


@pytest.mark.parametrize(
    ("table", "base"),
    [
        ('endpoint = "https://s3.lab.example/"', "https://s3.lab.example/lab"),
        ('endpoint = "https://s3.lab.example"\npath_style = false', "https://lab.s3.lab.example"),
        ('region = "eu-west-1"', "https://s3.eu-west-1.amazonaws.com/lab"),
        ('region = "eu-west-1"\npath_style = false', "https://lab.s3.eu-west-1.amazonaws.com"),
    ],
)
def test_requests_go_where_the_copy_goes(
    table: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "omewd.toml"
    keys = 'access_key_id = "AKID"\nsecret_access_key = "secret"\nsession_token = "token"'
    file.touch(0o600)
    file.write_text(f'[stores."s3://{BUCKET}"]\n{keys}\n{table}')
    monkeypatch.setenv("OMEWD_CONFIG", str(file))
    given = table_for("s3://lab/run", os.environ)
    assert given is not None
    target = Target(Address.parse("s3://lab/run"))
    assert target._uploads is not None
    assert target._uploads._base() == base
    signed = target._uploads._signed("DELETE", f"{base}/run/a?uploadId=1")
    assert signed.startswith(f"{base}/run/a?uploadId=1&x-")
    assert "X-Amz-Security-Token=token" in signed
    if "endpoint" in table:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://of-another-store.invalid")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false")
        again = Target(Address.parse("s3://lab/run"))._uploads
        assert again is not None
        assert again._base() == base
        assert again._signed("DELETE", f"{base}/run/a?uploadId=1").startswith(f"{base}/run/a?uploadId=1&x-")


def test_a_role_of_the_machine_may_abort_as_it_may_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Amazon's machines are told by http://169.254.169.254, they are told here by the store itself."""
    keys = {"AccessKeyId": "AKIDOFAROLE", "SecretAccessKey": "of a role", "Token": "token-of-a-role"}
    role = json.dumps({"Code": "Success", **keys, "Expiration": "2199-01-01T00:00:00Z"}).encode()

    def answers(method: str, path: str) -> tuple[int, bytes]:
        if path.startswith("/latest"):
            last = path.rstrip("/").rpartition("/")[2]
            return 200, {"token": b"a token", "security-credentials": b"recorder"}.get(last, role)
        signed.append(path)
        return (200, page("runs/cam/a")) if method == "GET" else (204, b"")

    signed: list[str] = []
    with store(answers, monkeypatch) as seen:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
        abort_all()
    assert [method for method, path in seen if not path.startswith("/latest")] == ["GET", "DELETE"]
    assert all("X-Amz-Credential=AKIDOFAROLE" in path for path in signed), signed
    assert all("X-Amz-Security-Token=token-of-a-role" in path for path in signed)


def test_nothing_goes_over_the_network_unencrypted_unless_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    with store(lambda *_: (200, page()), monkeypatch) as seen:
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        abort_all()
        assert seen == []
        with pytest.raises(OmewdError, match="not encrypted"):
            Uploads(BUCKET, "run", {"client_options": {}}).abort(lambda _: True)
