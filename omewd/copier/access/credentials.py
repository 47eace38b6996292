"""The credentials of S3 in the profile files of the AWS tools, which obstore does not read; and what no text may show.

Files and variables: https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html. The environment comes
first, as everywhere; obstore reads that itself.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from omewd.errors import OmewdError

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|SAS|CREDENTIAL", re.IGNORECASE)
# Shorter values would take ordinary words out of a text.
_LEAST_SECRET = 6
_QUERY = re.compile(r"(https?://[^\s?]+)\?[^\s\"'<>)]+")
_USER = re.compile(r"(https?://)[^\s/@]+@")
# Where requests carry secrets or parts of them, and servers repeat them.
_REPEATED = re.compile(
    r"(?i)<(AWSAccessKeyId|StringToSign|SignatureProvided|CanonicalRequest|Token-0)>.*?</\1>|(signature|sig|authorization)\s*[=:]\s*\S+",
    re.DOTALL,
)
# Profile setting → the setting of obstore.
_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_PLACES = {"region": "region", "endpoint_url": "endpoint"}
_ENDPOINT = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# Keys that are in requests as they are: setting → the variable that may give it.
_SENT = {"access_key_id": "AWS_ACCESS_KEY_ID", "session_token": "AWS_SESSION_TOKEN"}
# If one of these is set, no profile gives the keys.
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
# Option of obstore → the name in what a credential provider of obstore returns.
KEY_OPTIONS = {
    "access_key_id": "access_key_id",
    "secret_access_key": "secret_access_key",
    "session_token": "token",
    "account_key": "access_key",
    "sas_key": "sas_token",
}


def s3_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings for S3 that profile files have and the environment has not.

    Raises OmewdError ``store_refused`` if $AWS_PROFILE is in none of the files.
    """
    profile = environment.get("AWS_PROFILE", "default")
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    keys = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", profile)
    name = profile if profile == "default" else f"profile {profile}"
    config = _section(environment.get("AWS_CONFIG_FILE") or home / "config", name)
    if keys is None and config is None and "AWS_PROFILE" in environment:
        raise OmewdError(
            "store_refused", f"no profile file has the profile {profile!r:.80}", "Correct $AWS_PROFILE, or unset it"
        )
    known = {**(config or {}), **(keys or {})}
    wanted = {} if any(name in environment for name in KEY_VARIABLES) else dict(_KEYS)
    if "AWS_REGION" not in environment and "AWS_DEFAULT_REGION" not in environment:
        wanted["region"] = _PLACES["region"]
    if "AWS_ENDPOINT_URL" not in environment and "AWS_ENDPOINT" not in environment:
        wanted["endpoint_url"] = _PLACES["endpoint_url"]
    return {setting: known[name] for name, setting in wanted.items() if name in known}


def _section(path: str | os.PathLike[str], name: str) -> dict[str, str] | None:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        raise OmewdError("store_refused", f"the profile file {path} can't be read", "Correct it") from None
    return dict(parser[name]) if parser.has_section(name) else None


def is_endpoint(text: str) -> bool:
    """Whether a text is the address of a store."""
    return _ENDPOINT.fullmatch(text) is not None


def check_sendable(environment: Mapping[str, str], settings: Mapping[str, str]) -> None:
    """Raise OmewdError ``store_refused`` for what would make obstore crash: an address or a key of S3 that is none.

    Tables have been checked; ``settings`` may be of a profile.
    """
    addresses = {name: environment[name] for name in _ENDPOINT_VARIABLES if name in environment}
    addresses |= {"endpoint_url": settings["endpoint"]} if "endpoint" in settings else {}
    for name, address in addresses.items():
        if not is_endpoint(address):
            remedy = "Write it as in https://s3.lab.example, without keys"
            raise OmewdError("store_refused", f"{name} is no address of a store", remedy)
    for setting, variable in _SENT.items():
        text = settings.get(setting, environment.get(variable, ""))
        if not (text.isascii() and text.isprintable()):
            name = setting if setting in settings else variable
            raise OmewdError("store_refused", f"{name} has characters that no key has", "Correct it")


def provided(settings: Mapping[str, str]) -> dict[str, str] | None:
    """The keys among settings, as a credential provider of obstore returns them; None if there are none."""
    return {KEY_OPTIONS[name]: value for name, value in settings.items() if name in KEY_OPTIONS} or None


def secrets_of(environment: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """The values that no text may show, as they are and as servers may repeat them, longest first."""
    named = [value for name, value in environment.items() if _SECRET_NAME.search(name)]
    named += [value for name, value in settings.items() if _SECRET_NAME.search(name)]
    long = [value for value in named if len(value) >= _LEAST_SECRET]
    return sorted({text for value in long for text in (value, quote(value, safe=""), escape(value))}, key=len)[::-1]


def redacted(text: str, secrets: list[str]) -> str:
    """``text`` without secrets, without users and queries of URLs, and without what servers repeat of a request."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return _REPEATED.sub("…", _QUERY.sub(r"\1", _USER.sub(r"\1", text)))
