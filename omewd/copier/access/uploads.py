"""Uploads in parts that S3 still holds though nobody goes on with them: listed and aborted.

The requests are ListMultipartUploads and AbortMultipartUpload of the API of S3
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html). obstore has neither, but it signs the
URLs of objects, with whatever credentials it finds, also those of a machine's role. So its endpoint is the whole URL
that is wanted, up to a parameter whose value is the object's name that obstore appends. S3 ignores parameters that
begin with ``x-`` (https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html, "Custom access log
information").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request
from xml.etree import ElementTree

from omewd.errors import OmewdError

_SILENT_S = 20
# A page has at most 1000 uploads, each of less than 2 KiB.
_MOST_PAGES, _MOST_PAGE_BYTES = 100, 4 << 20
# For all uploads together. The next copy goes on with the rest.
_MOST_S = 60
_VALID = timedelta(minutes=5)
_IGNORED = "&x-omewd="


@dataclass(frozen=True)
class _Upload:
    path: str
    number: str = field(repr=False)


class Uploads:
    """The uploads for the objects of one copy, which are below ``prefix``. ``options``: of obstore, for the bucket."""

    def __init__(self, bucket: str, prefix: str, options: dict[str, Any]) -> None:
        self._bucket, self._prefix, self._options = bucket, f"{prefix}/", options
        # It follows no redirection, and every status is an answer.
        self._opener = OpenerDirector()
        for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
            self._opener.add_handler(handler)

    def abort(self, own: Callable[[str], bool]) -> None:
        """Abort the uploads in progress for those paths in the copy of which ``own`` is true.

        Raises OmewdError ``store_error``, OSError, HTTPException, ParseError, ValueError, and what obstore raises.
        """
        deadline = time.monotonic() + _MOST_S
        base = self._base()
        for upload in self._in_progress(base):
            if time.monotonic() > deadline:
                return
            if own(upload.path):
                self._answer("DELETE", base, self._prefix + upload.path, {"uploadId": upload.number})

    def _in_progress(self, base: str) -> Iterator[_Upload]:
        query = {"uploads": "", "prefix": self._prefix}
        for _ in range(_MOST_PAGES):
            page = self._answer("GET", base, "", query)
            if page is None:
                return
            for upload in page.iterfind("{*}Upload"):
                key, number = upload.findtext("{*}Key", ""), upload.findtext("{*}UploadId", "")
                if key.startswith(self._prefix) and number:
                    yield _Upload(key.removeprefix(self._prefix), number)
            if page.findtext("{*}IsTruncated") != "true":
                return
            query["key-marker"] = page.findtext("{*}NextKeyMarker", "")
            query["upload-id-marker"] = page.findtext("{*}NextUploadIdMarker", "")

    def _answer(self, method: str, base: str, key: str, query: dict[str, str]) -> ElementTree.Element | None:
        """What the store answers; None if it says nothing, or that there is no such upload."""
        url = self._signed(method, f"{base}/{quote(key)}?{urlencode(query, quote_via=quote)}")
        with self._opener.open(Request(url, method=method), timeout=_SILENT_S) as answer:
            status, content = answer.status, answer.read(_MOST_PAGE_BYTES + 1)
        if status in (204, 404):
            return None
        # Declarations could make a short text a long one.
        if status != 200 or len(content) > _MOST_PAGE_BYTES or b"<!" in content:
            raise OmewdError("store_error", f"the store answers {status} when asked for uploads in progress")
        return ElementTree.fromstring(content) if content else None

    def _base(self) -> str:
        """The URL of the bucket, as obstore has it by all its settings."""
        base = self._sign("GET", self._options).partition("?")[0].removesuffix("/x")
        if not (base.startswith("https://") or self._options["client_options"].get("allow_http")):
            raise OmewdError("store_error", f"{base} is not encrypted")
        return base

    def _signed(self, method: str, url: str) -> str:
        # This one of the settings with an endpoint counts more than all others, those of the environment included.
        place = {"aws_endpoint_url_s3": url + _IGNORED, "virtual_hosted_style_request": True}
        signed = self._sign(method, {**self._options, **place})
        # The same method without the query would delete an object.
        if not signed.startswith(f"{url}{_IGNORED}/x&X-Amz-"):
            raise OmewdError("store_error", "this version of obstore can't sign what is asked of uploads in progress")
        return signed

    def _sign(self, method: Any, options: dict[str, Any]) -> str:
        import obstore
        from obstore.store import S3Store

        return obstore.sign(S3Store(self._bucket, **options), method, "x", _VALID)
