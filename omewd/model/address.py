"""The URL of a copy, checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from omewd.errors import OmewdError

SCHEMES = ("s3", "gs", "az", "file")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MOST_BYTES = 1024
_FORMS = "Use s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or file:///PATH"


@dataclass(frozen=True)
class Address:
    """Where a copy is: a bucket ("" for files) and the path of the dataset in it, without slashes at its ends."""

    scheme: str
    bucket: str
    path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.path}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Check a URL; raises OmewdError ``bad_url``. No error repeats what may be a secret."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise OmewdError("bad_url", "the URL of a copy can't be read", _FORMS) from None
        if "@" in parts.netloc or parts.query or parts.fragment:
            remedy = f"Credentials come from the environment or from profile files. {_FORMS}"
            raise OmewdError("bad_url", "the URL of a copy has a user, a password, a query or a fragment in it", remedy)
        if parts.scheme not in SCHEMES:
            raise OmewdError("bad_url", f"copies can't go to {parts.scheme[:20]!r} URLs", _FORMS)
        if parts.scheme == "file" and parts.netloc:
            raise OmewdError("bad_url", f"{url[:200]!r} names another host", "Write file:///PATH, with three slashes")
        if parts.scheme != "file" and not _BUCKET.fullmatch(parts.netloc):
            raise OmewdError("bad_url", f"{url[:200]!r} has no valid bucket", _FORMS)
        path = parts.path.strip("/")
        segments = path.split("/")
        if not path or not path.isprintable() or len(path.encode()) > _MOST_BYTES or {"", ".", ".."} & set(segments):
            raise OmewdError("bad_url", f"{url[:200]!r} has no valid path", _FORMS)
        return cls(parts.scheme, parts.netloc, path)


def is_url(text: str) -> bool:
    """Whether a text that names a dataset is a URL; other texts are paths."""
    return "://" in text
