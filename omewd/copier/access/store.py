"""The border to object stores: what obstore does and raises, in omewd's terms.

Objects are named by their paths in the dataset. Errors are OmewdError: ``store_error`` for what may pass (the network,
a server's error, throttling), ``store_refused`` and ``store_missing`` for what will not; none has a secret in its text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from omewd.copier.access.credentials import (
    KEY_OPTIONS,
    KEY_VARIABLES,
    check_sendable,
    provided,
    redacted,
    s3_settings,
    secrets_of,
)
from omewd.copier.access.tables import Table, table_for
from omewd.copier.access.uploads import Uploads
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.process.names import sync_folder

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_MOST_TEXT = 300
# A part of 8 MiB in this time is 70 kB/s; a server that is silent for longer is given up.
_SILENT = timedelta(seconds=120)
# By obstore, within a request; the engine tries again after that.
_RETRIES: RetryConfig = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(minutes=3),
}
# Parts of a file that are sent at once.
PARTS_AT_ONCE = 4
_READ_BYTES = 1 << 20
# What stores say, by HTTP's numbers or by S3's names, that know no conditional puts.
_NOT_CONDITIONAL = ("NotImplemented", "status code: 501")
# What obstore leaves of a file that was not written to its end.
_LEFT = re.compile(r".+#\d+")


@dataclass(frozen=True)
class Found:
    """An object in the store. ``etag``: what the store calls this version, without quotes; "" if it does not say."""

    path: str
    size: int
    etag: str


class Target:
    """The objects of one copy, at a URL. Threads may share it."""

    def __init__(self, address: Address, *, create: bool = False) -> None:
        """Connects to nothing yet. ``create``: a folder is made if only it is missing.

        Raises OmewdError ``not_installed``, ``store_refused``, ``store_missing``; OSError for a folder.
        """
        try:
            import obstore
        except ImportError as error:
            message = f"copies need obstore ({redacted(str(error), [])})"
            raise OmewdError("not_installed", message, "Run: pip install 'omewd[copy]'") from error
        self.url = address.url
        table = table_for(address.url, os.environ) or Table()
        settings = _settings(address.scheme, table)
        if address.scheme == "s3":
            check_sendable(os.environ, settings)
        self._secrets = secrets_of(os.environ, settings)
        self._obstore = obstore
        self._root = Path(f"/{address.path}") if address.scheme == "file" else None
        self._durable_folders: set[Path] = set()
        if self._root is not None:
            _check_folder(self._root, create=create)
        options = _options(settings, allow_http=table.allow_http or _http_is_allowed())
        with self._translated():
            self.store: ObjectStore = _open(address, options)
        self._uploads = Uploads(address.bucket, address.path, options) if address.scheme == "s3" else None

    def put(self, path: str, data: bytes) -> str:
        """Store a small object; returns its etag."""
        with self._must_be_there():
            result = self._obstore.put(self.store, path, data, use_multipart=False)
        self._make_durable(path)
        return _plain(result["e_tag"])

    def create(self, path: str, data: bytes) -> None:
        """Store a small object if there is none at the path; a store without conditional puts stores it anyway."""
        from obstore import exceptions

        with self._must_be_there():
            try:
                self._obstore.put(self.store, path, data, use_multipart=False, mode="create")
            except exceptions.AlreadyExistsError:
                pass
            except exceptions.BaseError as error:
                if not any(text in str(error) for text in _NOT_CONDITIONAL):
                    raise
                self._obstore.put(self.store, path, data, use_multipart=False)
        self._make_durable(path)

    def put_parts(self, path: str, parts: Iterator[bytes], part_bytes: int) -> None:
        """Store an object in parts of that size, several at once. What ``parts`` raises aborts the upload."""
        with self._must_be_there():
            self._obstore.put(self.store, path, parts, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE)
        self._make_durable(path)

    def head(self, path: str) -> Found | None:
        try:
            with self._translated():
                return _found(self._obstore.head(self.store, path))
        except FileNotFoundError:
            return None

    def get(self, path: str) -> tuple[Found, Iterator[bytes]] | None:
        """An object and its bytes, in pieces; None if there is none."""
        try:
            with self._translated():
                result = self._obstore.get(self.store, path)
        except FileNotFoundError:
            return None
        return _found(result.meta), self._pieces(result)

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """The bytes of a small object; None if there is none. Raises OmewdError ``store_error`` for a larger one."""
        got = self.get(path)
        if got is None:
            return None
        found, pieces = got
        if found.size > most_bytes:
            raise OmewdError("store_error", f"{self.url}: {path} has {found.size} bytes, and {most_bytes} at most fit")
        return b"".join(pieces)

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError), self._translated():
            self._obstore.delete(self.store, path)

    def _pieces(self, result: Any) -> Iterator[bytes]:
        with self._must_be_there():
            for piece in result.stream(min_chunk_size=_READ_BYTES):
                yield bytes(piece)

    def listed(self, folder: str | None = None) -> Iterator[Found]:
        """All objects of the copy, or those in a folder of it."""
        with self._translated():
            for batch in self._obstore.list(self.store, prefix=folder):
                yield from map(_found, batch)

    def sweep(self, own: Callable[[str], bool], silent_s: float = 0) -> None:
        """Remove what killed processes have left half-written of files in a folder, if ``own`` is true of their paths.

        ``silent_s``: only what was not written to for so long, where other processes may be writing these.
        """
        if self._root is None:
            return
        latest = inf
        if silent_s:
            try:
                os.utime(self._root)  # by the server's clock, as the times of its files are
                latest = self._root.stat().st_mtime - silent_s
            except OSError:
                return
        for folder, _, names in os.walk(self._root):
            for name in filter(_LEFT.fullmatch, names):
                left = Path(folder) / name
                if not own(os.fspath(left.relative_to(self._root)).rpartition("#")[0]):
                    continue
                with suppress(OSError):
                    if left.stat().st_mtime <= latest:
                        left.unlink()

    def abort_left(self, own: Callable[[str], bool]) -> None:
        """Abort uploads in S3 that killed processes have begun, and lost requests, if ``own`` is true of their paths.

        No process may be uploading to these. The copy does not depend on it, so a store that refuses is left alone.
        """
        from obstore import exceptions

        if self._uploads is not None:
            with suppress(OmewdError, exceptions.BaseError, OSError, HTTPException, ParseError, ValueError):
                self._uploads.abort(own)

    def _make_durable(self, path: str) -> None:
        """A file counts once it is on the server's disk. It is then read from there and not from this machine's cache.

        Object stores answer when an object is durable.
        """
        if self._root is None:
            return
        file = self._root / path
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
            sync_folder(file.parent)
            folder, new = file.parent, []
            while folder != self._root and folder not in self._durable_folders:
                sync_folder(folder.parent)  # which has its name
                new.append(folder)
                folder = folder.parent
            self._durable_folders.update(new)
        except OSError as error:
            raise OmewdError("store_error", f"{file} can't be synced: {error.strerror}") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of obstore as omewd's. FileNotFoundError, for an object that is not there, passes as it is."""
        from obstore import exceptions

        try:
            yield
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise _as_ours(error, self.url, self._text(error)) from None

    @contextmanager
    def _must_be_there(self) -> Iterator[None]:
        try:
            with self._translated():
                yield
        except FileNotFoundError as error:
            raise OmewdError("store_missing", f"{self.url}: {error}") from None

    def _text(self, error: BaseException) -> str:
        """What happened, in one line without secrets. The rest of obstore's text is for its developers."""
        text = redacted(str(error).partition("\n\nDebug source")[0], self._secrets)
        return " ".join(text.split())[:_MOST_TEXT]


def _http_is_allowed() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")


def _settings(scheme: str, table: Table) -> dict[str, str]:
    """The options of obstore beside those that it finds in the environment."""
    if scheme != "s3":
        return table.options
    if table.profile is not None:
        others = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
        return {**s3_settings({**others, "AWS_PROFILE": table.profile}), **table.options}
    return {**({} if "access_key_id" in table.options else s3_settings(os.environ)), **table.options}


def _options(settings: dict[str, str], *, allow_http: bool) -> dict[str, Any]:
    """What obstore is given for every object store."""
    # A request has no limit as a whole: a large object is read back in one.
    client: ClientConfig = {
        "timeout": timedelta(days=1),
        "read_timeout": _SILENT,
        "connect_timeout": timedelta(seconds=20),
    }
    if allow_http:
        client["allow_http"] = True
    given: dict[str, Any] = {"client_options": client, "retry_config": _RETRIES, **settings}
    # Keys of a table or a profile all come from there; the environment may have others, such as a session's token.
    if (keys := provided(settings)) is not None:
        given = {name: value for name, value in given.items() if name not in KEY_OPTIONS}
        given["credential_provider"] = lambda: {**keys, "expires_at": None}
    return given


def _open(address: Address, options: dict[str, Any]) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

    if address.scheme == "file":
        return LocalStore(f"/{address.path}")
    if address.scheme == "gs":
        return GCSStore(address.bucket, prefix=address.path, **options)
    if address.scheme == "az":
        return AzureStore(address.bucket, prefix=address.path, **options)
    return S3Store(address.bucket, prefix=address.path, checksum_algorithm="SHA256", **options)


def _check_folder(folder: Path, *, create: bool) -> None:
    """Check that a folder is there. ``create``: make it, but not its parents: the server may not be mounted."""
    needed = folder.parent if create else folder
    if not needed.is_dir():
        raise OmewdError("store_missing", f"{needed} is not a folder", "Mount the server, make it, or correct the URL")
    if create and not folder.exists():
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _as_ours(error: Exception, url: str, text: str) -> Exception:
    """An error of obstore as one of omewd's; FileNotFoundError for an object that is not there.

    Errors of listing are all of one class, so that only their texts tell them apart.
    """
    from obstore import exceptions

    whole = str(error)
    message = f"{url}: {text}"
    if "NoSuchBucket" in whole or "ContainerNotFound" in whole:
        return OmewdError("store_missing", message)
    if "NoSuchUpload" in whole:  # it was complete, and the answer was lost; or it was aborted. Another one helps
        return OmewdError("store_error", message)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(text)
    refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if refused or "status code: 401" in whole or "status code: 403" in whole:
        return OmewdError("store_refused", message)
    unusable = exceptions.InvalidPathError | exceptions.NotSupportedError | exceptions.UnknownConfigurationKeyError
    return OmewdError("bad_url", message) if isinstance(error, unusable) else OmewdError("store_error", message)


def _found(meta: Any) -> Found:
    return Found(meta["path"], meta["size"], _plain(meta["e_tag"]))


def _plain(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')
