"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from omewd.client.client import Client

Command = Callable[..., Any]


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


def client(socket: Path | None) -> Client:
    return Client(socket or click.get_current_context().find_root().obj)
