"""The digest of an object, which S3 computes as well: the ETag of an object that is not encrypted with a key of KMS.

An object of one part has its MD5. An object of several has the MD5 of the parts' MD5s, a hyphen, and the number of
parts (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html). Some servers, such
as rclone's, give it the MD5 of the whole. So most stores confirm an upload without sending it back. It is against
accidents, not against forgers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

PART_BYTES = 8 << 20
# S3 takes no more than this, "Amazon S3 multipart upload limits".
MOST_PARTS = 10_000
_DIGEST = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")


def part_bytes(size: int) -> int:
    """The size of the parts of an object; one that is not larger has one part."""
    part = PART_BYTES
    while part * MOST_PARTS < size:
        part *= 2
    return part


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def is_whole(text: str) -> bool:
    """Whether a digest is the MD5 of the whole object."""
    return "-" not in text


class Digest:
    """The digest of an object of a known size, from its bytes in order, however they are cut.

    ``whole``: it is the MD5 of the whole, also if the object has several parts.
    """

    def __init__(self, size: int, *, whole: bool = False) -> None:
        self._part_bytes = part_bytes(size)
        self._in_parts = size > self._part_bytes and not whole
        self._parts: list[bytes] = []
        self._part = hashlib.md5(usedforsecurity=False)
        self._in_part = 0
        self.size = 0

    def add(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        self.size += len(left)
        while left:
            piece = left[: self._part_bytes - self._in_part] if self._in_parts else left
            self._part.update(piece)
            self._in_part += len(piece)
            left = left[len(piece) :]
            if self._in_parts and self._in_part == self._part_bytes:
                self._end_part()

    def _end_part(self) -> None:
        self._parts.append(self._part.digest())
        self._part = hashlib.md5(usedforsecurity=False)
        self._in_part = 0

    def text(self) -> str:
        """The digest of all that was added; nothing can be added after it."""
        if not self._in_parts:
            return self._part.hexdigest()
        if self._in_part:
            self._end_part()
        return f"{hashlib.md5(b''.join(self._parts), usedforsecurity=False).hexdigest()}-{len(self._parts)}"


def digest_of(chunks: Iterable[bytes], size: int, *, whole: bool = False) -> tuple[int, str]:
    """The number of bytes and the digest of an object that should have ``size`` bytes."""
    digest = Digest(size, whole=whole)
    for chunk in chunks:
        digest.add(chunk)
    return digest.size, digest.text()
