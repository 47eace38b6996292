"""Puts errors of the library into the terms of the command line. Pure.

The library writes settings in backquotes and in Python: "Pass `overwrite=True` to replace it".
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import click

from omewd.errors import OmewdError

_QUOTED = re.compile(r"`([^`]*)`")
# What is said in Python, and on the command line.
_IN_SHELL = {"help(omewd.StreamSpec)": "omewd start-stream --help"}
_SETTING = re.compile(r"([a-z_][a-z0-9_]*)=(.+)", re.DOTALL)
# Characters that a shell does not take literally. An ellipsis, which stands for a value, is fine.
_SPECIAL = re.compile(r"[\s'\"$`\\*?;&|<>()]")


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command, by the names of their parameters."""
    return {p.name: p for p in command.params if isinstance(p, click.Option) and p.name}


def for_command_line(error: OmewdError, options: Mapping[str, click.Option]) -> OmewdError:
    """The error with settings written as options of a command, if it has them."""
    return error.with_text(with_options(error.message, options), with_options(error.remedy, options))


def with_options(text: str, options: Mapping[str, click.Option]) -> str:
    """``text`` without backquotes, and with the settings in them written as options if the command has them."""
    return _QUOTED.sub(lambda match: _IN_SHELL.get(match[1]) or _as_option(match[1], options), text)


def _as_option(setting: str, options: Mapping[str, click.Option]) -> str:
    match = _SETTING.fullmatch(setting)
    option = options.get(match[1]) if match else None
    if match is None or option is None:
        return setting
    try:
        value = ast.literal_eval(match[2])
    except (ValueError, SyntaxError):
        value = match[2]
    if isinstance(value, bool):
        names = option.opts if value else option.secondary_opts
        return max(names, key=len) if option.is_flag and names else setting
    if option.is_flag:
        return setting
    text = str(value)
    return f"{max(option.opts, key=len)} {shlex.quote(text) if _SPECIAL.search(text) or not text else text}"


def wants_json(arguments: Iterable[str]) -> bool:
    """Whether a command line asks for JSON, even if it can't be parsed."""
    before = ""
    for argument in arguments:
        if argument == "--":
            return False
        name, _, value = argument.partition("=")
        if name == "--json" or (name == "--format" and value == "json") or (before, argument) == ("--format", "json"):
            return True
        before = argument
    return False


def usage_error(error: click.ClickException) -> OmewdError:
    """A click error as one line, with the names that may be meant, or where to look."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    help_line = f"See {context.command_path if context else 'omewd'} --help"
    if isinstance(error, click.NoSuchOption):
        parameters = context.command.params if context else []
        known = [name for parameter in parameters for name in parameter.opts if name.startswith("--")]
        meant = close_to(error.option_name, [*known, "--help"])
        return OmewdError("usage", f"No such option {error.option_name!r}", _did_you_mean(meant) or help_line)
    return OmewdError("usage", " ".join(error.format_message().split()), help_line)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A remedy that suggests similar names, or if there are none lists all names."""
    known = list(names)
    return _did_you_mean(close_to(word, known)) or f"Use one of {', '.join(known)}"


def close_to(word: str, names: Iterable[str]) -> list[str]:
    """Up to three of ``names`` that start with ``word``, or if none does, that are similar to it."""
    known = {name.replace("_", "-"): name for name in names}
    word = word.replace("_", "-")
    begun = [name for name in known if word.strip("-") and name.startswith(word)]
    found = begun or get_close_matches(word, known, cutoff=0.7)
    return [known[name] for name in found[:3]]


def _did_you_mean(names: list[str]) -> str:
    return f"Did you mean {' or '.join(names)}?" if names else ""
