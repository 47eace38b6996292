"""Reads options of the commands from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from omewd.cli.errors import did_you_mean, options_of
from omewd.copier.access.tables import TABLES
from omewd.errors import OmewdError


def default_map(
    path: Path, commands: Iterable[str], command: Callable[[str], click.Command]
) -> dict[str, dict[str, Any]]:
    """The defaults of each command. A table is for one command; top-level keys are for all that have the option.

    Keys are long options without the dashes. Raises OmewdError ``usage`` for unknown commands and options.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OmewdError("usage", f"{path} can't be read: {error}") from error
    names = list(commands)
    settings.pop(TABLES, None)  # for those who copy
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for key in tables:
        if key not in names:
            raise OmewdError(
                "usage",
                f"{path} has a table [{key}], but no command has this name",
                did_you_mean(key, [*names, TABLES]),
            )
    common = {key: value for key, value in settings.items() if key not in tables}
    parameters = {name: _by_key(command(name)) for name in names} if common else {}
    for key in common:
        if not any(key.replace("_", "-") in known for known in parameters.values()):
            every = sorted({option for known in parameters.values() for option in known})
            raise OmewdError(
                "usage", f"{path} has {key!r}, but no command has an option --{key}", did_you_mean(key, every)
            )
    defaults: dict[str, dict[str, Any]] = {}
    for name in names:
        given = {**common, **tables.get(name, {})}
        if not given:
            continue
        known = parameters.get(name) or _by_key(command(name))
        for key in tables.get(name, {}):
            if key.replace("_", "-") not in known:
                raise OmewdError("usage", f"{path}: {name} has no option {key!r}", did_you_mean(key, known))
        found = {key.replace("_", "-"): value for key, value in given.items()}
        defaults[name] = {
            known[key].name or "": _value(path, key, known[key], value) for key, value in found.items() if key in known
        }
    return defaults


def _value(path: Path, key: str, option: click.Option, value: Any) -> Any:
    """A value as if it had been typed, so that click checks it."""
    if option.multiple:
        return [_typed(path, key, one) for one in (value if isinstance(value, list) else [value])]
    return _typed(path, key, value)


def _typed(path: Path, key: str, value: Any) -> str | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int | float):
        return str(value)
    kind = "table" if isinstance(value, dict) else type(value).__name__
    raise OmewdError("usage", f"{path}: {key} can't be a {kind}", "Give a string or a number")


def _by_key(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their keys in the file."""
    return {
        name.removeprefix("--"): option
        for option in options_of(command).values()
        for name in option.opts
        if name.startswith("--")
    }
