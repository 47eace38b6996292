"""Makes the manual pages and the completions of the shells from the commands themselves.

    python packaging/shell_files.py         writes packaging/man and packaging/completion

A library (click-man 0.6) knows neither commands that are imported late, nor examples, nor what roff takes literally.
The pages are for man(7).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from omewd import __version__
from omewd.cli.main import cli, one_line_help
from omewd.cli.options import examples_of

FOLDER = Path(__file__).resolve().parent
# The names that shells look for.
_COMPLETIONS = {"bash": "omewd", "zsh": "_omewd", "fish": "omewd.fish"}
_EXIT_STATUS = (
    ("0", "fine"),
    ("1", "error"),
    ("2", "wrong usage"),
    ("3", "the daemon could not start"),
    ("4", "the daemon cannot be reached"),
    ("5", "data are incomplete"),
)
_ENVIRONMENT = (
    ("OMEWD_SOCKET", "The daemon's control socket."),
    ("OMEWD_CONFIG", "A TOML file of options, with a table for each command."),
    (
        "OMEWD_COMMAND_OPTION",
        "Any option of any command, such as OMEWD_SERVE_MEMORY. What is on the command line takes precedence.",
    ),
)


def files() -> dict[str, str]:
    """The text of each file, by its path in ``packaging``."""
    return {**dict(_completions()), **dict(_pages())}


def _completions() -> Iterator[tuple[str, str]]:
    for shell, name in _COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        # Not source(), which looks for the shell on this machine.
        script = kind(cli, {}, "omewd", "_OMEWD_COMPLETE")
        yield f"completion/{name}", (script.source_template % script.source_vars()).strip() + "\n"


def _pages() -> Iterator[tuple[str, str]]:
    with click.Context(cli, info_name="omewd", **cli.context_settings) as root:
        commands = {name: cli.get_command(root, name) for name in cli.list_commands(root)}
        yield "man/omewd.1", _page(root, [(name, one_line_help(name)) for name in commands])
        for name, command in commands.items():
            assert command is not None
            with click.Context(command, info_name=name, parent=root) as context:
                yield f"man/omewd-{name}.1", _page(context, [])


def _page(context: click.Context, commands: list[tuple[str, str]]) -> str:
    command, path = context.command, context.command_path
    name, help_text = path.replace(" ", "-"), inspect.cleandoc(command.help or "")
    about = one_line_help(context.info_name or "") or help_text
    lines = [
        f'.TH {_text(name.upper())} 1 "" "omewd {__version__}" "User Commands"',
        ".SH NAME",
        rf"{_text(name)} \- {_text(about.rstrip('.'))}",
        ".SH SYNOPSIS",
        rf"\fB{_text(path)}\fR {_text(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(help_text),
    ]
    if commands:
        lines.append(".SH COMMANDS")
        for other, about in commands:
            lines += [".TP", rf"\fBomewd\-{_text(other)}\fR(1)", _text(about)]
    lines.append(".SH OPTIONS")
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None:
            lines += [".TP", _option(record[0]), _text(record[1])]
    if examples := examples_of(command):
        lines += [".SH EXAMPLES", ".EX", *map(_text, examples), ".EE"]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _EXIT_STATUS:
        lines += [".TP", rf"\fB{status}\fR", meaning]
    lines.append(".SH ENVIRONMENT")
    for variable, meaning in _ENVIRONMENT:
        lines += [".TP", rf"\fB{variable}\fR", _text(meaning)]
    lines += [".SH SEE ALSO", r"\fBomewd\fR(1)" if not commands else "https://ngff.openmicroscopy.org/0.5"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _option(names: str) -> str:
    """Names in bold, and what they take in italics."""
    return ", ".join(
        rf"\fB{_text(name)}\fR" + (rf" \fI{_text(takes)}\fR" if takes else "")
        for name, _, takes in (part.partition(" ") for part in names.split(", "))
    )


def _text(text: str) -> str:
    """Text that roff takes literally: backslashes, hyphens that can be copied, and no request at the start."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("…", r"\&...")
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    for path, text in files().items():
        target = FOLDER / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    sys.stdout.write(f"{len(files())} files in {FOLDER}\n")
