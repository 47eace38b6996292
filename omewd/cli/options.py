"""What several commands share: options, completion by the shell, and examples at the end of their help."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from omewd.client.client import Client
from omewd.errors import OmewdError

Command = Callable[..., Any]

_EXAMPLE = "Example:"


def socket_option(function: Command) -> Command:
    """``--socket`` after the command. The default is the one before the command, then $OMEWD_SOCKET."""
    return click.option(
        "--socket",
        type=click.Path(path_type=Path),
        envvar="OMEWD_SOCKET",
        help="The daemon's control socket.",
    )(function)


def json_option(function: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, including errors.")(function)


def example(*lines: str) -> str:
    """The end of a command's help, for ``epilog``: how it is used, in lines for a shell."""
    return "\n".join(["\b", _EXAMPLE, *(f"  {line}" for line in lines)])


def examples_of(command: click.Command) -> list[str]:
    """The lines that :func:`example` was given for a command."""
    return [line.strip() for line in (command.epilog or "").partition(f"{_EXAMPLE}\n")[2].splitlines()]


def stream_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a stream. Without a daemon that answers, there is nothing to offer."""
    try:
        status = Client().daemon_status()
    except OmewdError:
        return []
    return [stream.name for stream in status.streams if stream.name.startswith(incomplete)]


def one_of(*words: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Complete one of a few words."""
    return lambda _, __, incomplete: [word for word in words if word.startswith(incomplete)]


def client(socket: Path | None) -> Client:
    return Client(socket or click.get_current_context().find_root().obj)


def to_byte_rate(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Bytes a second, given as in 200MB/s. For ``callback``."""
    if text is None:
        return None
    from omewd.daemon.config import parse_size

    rate = parse_size(re.sub(r"\s*/\s*s\s*$", "", text))
    if rate <= 0:
        raise OmewdError("usage", f"{text!r} is not a rate", "Write it as in 200MB/s")
    return float(rate)
