"""The tables ``[stores."s3://bucket"]`` of the configuration file: how stores are reached, and with which keys.

Only who copies reads them. The daemon tells its children the file's name, in $OMEWD_CONFIG, and not what is in it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omewd.copier.access.credentials import is_endpoint
from omewd.errors import OmewdError

VARIABLE = "OMEWD_CONFIG"
TABLES = "stores"
# Where systemd puts what LoadCredential= names.
_CREDENTIALS = "CREDENTIALS_DIRECTORY"

# Key in the table → the option of obstore.
_TEXTS: dict[str, dict[str, str]] = {
    # Of the options for an endpoint, the one that counts more than all variables of the environment.
    "s3": {"endpoint": "aws_endpoint_url_s3", "region": "region", "access_key_id": "access_key_id"},
    "gs": {"endpoint": "base_url"},
    "az": {
        "endpoint": "endpoint",
        "account_name": "account_name",
        "tenant_id": "tenant_id",
        "client_id": "client_id",
    },
}
# These can be in files as well, which KEY_file names.
_SECRETS: dict[str, dict[str, str]] = {
    "s3": {"secret_access_key": "secret_access_key", "session_token": "session_token"},
    "gs": {"service_account": "service_account_key"},
    "az": {"account_key": "account_key", "sas_token": "sas_key", "client_secret": "client_secret"},
}
_OTHERS: dict[str, set[str]] = {"s3": {"profile", "path_style"}, "gs": set(), "az": set()}
_BOOLEANS = {"allow_http", "path_style"}
# If one of the first is there, so must be the second.
_TOGETHER = {
    "access_key_id": "secret_access_key",
    "secret_access_key": "access_key_id",
    "session_token": "access_key_id",
    "account_key": "account_name",
    "sas_token": "account_name",
    "client_secret": "client_id",
}
_PREFIX = re.compile(r"(s3|gs|az)://[A-Za-z0-9][^\s?#@]*")
_MOST_SECRET_BYTES = 64 << 10


@dataclass(frozen=True)
class Table:
    """What a table says. ``options``: for obstore; ``profile``: of the AWS tools, whose keys to take."""

    options: dict[str, str] = field(default_factory=dict, repr=False)
    profile: str | None = None
    allow_http: bool = False


def table_for(url: str, environment: Mapping[str, str]) -> Table | None:
    """The table with the longest prefix of a URL; None if no table has one. Raises OmewdError ``store_refused``."""
    name = environment.get(VARIABLE)
    if not name:
        return None
    file = _File(Path(name), environment)
    fitting = [prefix for prefix in file.tables if f"{url}/".startswith(f"{prefix.rstrip('/')}/")]
    return file.table(max(fitting, key=len)) if fitting else None


def problems(environment: Mapping[str, str]) -> Iterator[OmewdError]:
    """What is wrong with the tables of the configuration file, and with the files that they name."""
    name = environment.get(VARIABLE)
    if not name:
        return
    try:
        file = _File(Path(name), environment)
    except OmewdError as error:
        yield error
        return
    for prefix in file.tables:
        try:
            file.table(prefix)
        except OmewdError as error:
            yield error


class _File:
    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._folder = Path(environment.get(_CREDENTIALS) or path.parent)
        try:
            with path.open("rb") as file:
                self._mode = os.fstat(file.fileno()).st_mode
                tables = tomllib.load(file).get(TABLES, {})
        except OSError as error:
            raise OmewdError("store_refused", f"{path} can't be read: {error.strerror}", "Correct it") from error
        except ValueError:  # whose text may show a line of the file
            raise OmewdError("store_refused", f"{path} is not TOML", "Correct it") from None
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise OmewdError(
                "store_refused", f"{path}: {TABLES} must hold tables", f'Write them as [{TABLES}."s3://BUCKET"]'
            )
        self.tables: dict[str, dict[str, Any]] = tables

    def table(self, prefix: str) -> Table:
        if not _PREFIX.fullmatch(prefix):
            raise self._wrong(prefix, "is not named after a bucket", f'Write it as [{TABLES}."s3://BUCKET"]')
        given = self.tables[prefix]
        scheme, _, place = prefix.partition("://")
        texts, secrets = _TEXTS[scheme], _SECRETS[scheme]
        known = {*texts, *secrets, *(f"{name}_file" for name in secrets), *_OTHERS[scheme], "allow_http"}
        for key, value in given.items():
            if key not in known:
                raise self._wrong(prefix, f"has an unknown key {key!r:.80}", f"These are known: {sorted(known)}")
            if not isinstance(value, bool if key in _BOOLEANS else str) or value == "":
                kind = "true or false" if key in _BOOLEANS else "a text"
                raise self._wrong(prefix, f"{key} must be {kind}")
        options = {texts[key]: value for key, value in given.items() if key in texts}
        found = {name: self._secret(prefix, given, name) for name in secrets}
        options |= {secrets[name]: value for name, value in found.items() if value is not None}
        self._check(prefix, given, {name for name, value in found.items() if value is not None})
        if given.get("path_style") is False:
            options |= _by_host(place.split("/")[0], options)
        return Table(options, given.get("profile"), given.get("allow_http", False))

    def _secret(self, prefix: str, given: Mapping[str, str], name: str) -> str | None:
        """A secret of a table, out of the table or out of its file."""
        file = given.get(f"{name}_file")
        if name in given:
            if file is not None:
                raise self._wrong(prefix, f"has {name} and {name}_file", "Drop one")
            _require_private(self._path, self._mode)
            return given[name]
        return _secret_in(self._folder / file) if file is not None else None

    def _check(self, prefix: str, given: Mapping[str, Any], secrets: set[str]) -> None:
        there = secrets | set(given)
        for one, other in _TOGETHER.items():
            if one in there and other not in there:
                raise self._wrong(prefix, f"has {one} without {other}", f"Add {other}, or drop {one}")
        if "profile" in there and "access_key_id" in there:
            raise self._wrong(prefix, "has a profile and keys", "Drop one")
        if (endpoint := given.get("endpoint")) is None:
            return
        if not is_endpoint(endpoint):
            raise self._wrong(prefix, "endpoint is no address", "Write it as in https://s3.lab.example")
        if endpoint.startswith("http://") and not given.get("allow_http"):
            raise self._wrong(prefix, "endpoint is not encrypted", "Use https://, or add allow_http = true")

    def _wrong(self, prefix: str, what: str, remedy: str = "Correct it") -> OmewdError:
        shown = re.sub(r".*@|[?#].*", "…", prefix)[:200]  # keys that somebody has put there
        return OmewdError("store_refused", f'{self._path}: [{TABLES}."{shown}"] {what}', remedy)


def _by_host(bucket: str, options: Mapping[str, str]) -> dict[str, str]:
    """The options that put the bucket into the name of the host."""
    more = {"virtual_hosted_style_request": "true"}
    endpoint = _TEXTS["s3"]["endpoint"]
    if endpoint in options:
        parts = urlsplit(options[endpoint])
        more[endpoint] = parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
    return more


def _secret_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            _require_private(path, os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_SECRET_BYTES + 1)
    except OSError as error:
        raise OmewdError("store_refused", f"{path} can't be read: {error.strerror}", "Correct its name") from error
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > _MOST_SECRET_BYTES:
        raise OmewdError("store_refused", f"{path} holds no secret", "Write the secret into it, and nothing else")
    return text


def _require_private(path: Path, mode: int) -> None:
    """Raise OmewdError ``store_refused`` if everybody may read or write a file with a secret. A group may."""
    if mode & 0o007:
        raise OmewdError(
            "store_refused", f"{path} has secrets in it, but is open to every user", f"Run: chmod o= {path}"
        )
