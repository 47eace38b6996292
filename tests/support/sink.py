"""``python -m tests.support.sink``: an S3 server that takes all and keeps none of it. It prints its port.

It knows the size and the ETag of each object, computed from what has arrived, so that copies are confirmed as a real
server confirms them, for a fraction of its CPU time. Real ones are on another machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

_READ_BYTES = 256 << 10
_NO_UPLOADS = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
_EMPTY = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that ends in the middle is none."""


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: ClassVar[dict[str, tuple[int, str]]] = {}  # size and ETag
    uploads: ClassVar[dict[str, dict[int, tuple[int, bytes]]]] = {}

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, text: str = "", **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def _received(self) -> tuple[int, bytes]:
        """The size and the MD5 of the body."""
        digest = hashlib.md5(usedforsecurity=False)
        buffer = memoryview(bytearray(_READ_BYTES))
        size = left = int(self.headers.get("Content-Length", 0))
        while left:
            count = self.rfile.readinto(buffer[: min(left, _READ_BYTES)])
            if not count:
                raise ConnectionAbortedError
            digest.update(buffer[:count])
            left -= count
        return size, digest.digest()

    def do_PUT(self) -> None:
        path, asked = self._asked()
        size, md5 = self._received()
        if "partNumber" in asked:
            self.uploads[path][int(asked["partNumber"][0])] = (size, md5)
        else:
            self.objects[path] = (size, md5.hex())
        self._answer(200, ETag=f'"{md5.hex()}"')

    def do_POST(self) -> None:
        path, asked = self._asked()
        self._received()
        if "uploads" in asked:
            self.uploads[path] = {}
            text = f"<UploadId>{hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()}</UploadId>"
            self._answer(200, f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>")
            return
        parts = [part for _, part in sorted(self.uploads.pop(path).items())]
        md5 = hashlib.md5(b"".join(digest for _, digest in parts), usedforsecurity=False)
        etag = f"{md5.hexdigest()}-{len(parts)}"
        self.objects[path] = (sum(size for size, _ in parts), etag)
        text = f"<ETag>&quot;{etag}&quot;</ETag>"
        self._answer(200, f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        _, asked = self._asked()
        if "list-type" in asked:
            self._answer(200, _EMPTY)
        elif "uploads" in asked:
            self._answer(
                200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            )
        else:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        path, _ = self._asked()
        if path not in self.objects:
            self._answer(404)
            return
        size, etag = self.objects[path]
        changed = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        self._answer(200, **{"Content-Length": str(size), "ETag": f'"{etag}"', **changed})

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        return url.path, parse_qs(url.query, keep_blank_values=True)


@contextlib.contextmanager
def sink() -> Iterator[tuple[int, int]]:
    """The server in a process of its own; yields its port and its pid."""
    with subprocess.Popen([sys.executable, "-m", "tests.support.sink"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


if __name__ == "__main__":
    server = _Server(("127.0.0.1", 0), _Sink)
    print(server.server_address[1], flush=True)
    server.serve_forever()
