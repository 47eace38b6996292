"""The ``omewd`` command. Sub-commands are imported when they are called; errors are shown in one place."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from omewd import __version__
from omewd.errors import EXIT_ERROR, OmewdError

# Command name: (module, one line of help), so that "omewd --help" imports none of them.
_COMMANDS = {
    "serve": "Run the daemon.",
    "start-stream": "Open a stream: make its dataset and its ring.",
    "stop-stream": "Take no more frames; write what has arrived.",
    "resume-stream": "Take up a failed stream again.",
    "set-metadata": "Put metadata of your own into a stream's dataset.",
    "view": "Look at a frame while it is written.",
    "status": "Show streams, throughput and writers.",
    "verify": "Read a dataset back and say what is wrong.",
    "repair": "Mend what can be mended of a dataset.",
    "backends": "Show which backends can be used here, and why not.",
    "demo": "Show it all: daemon, simulated camera, dataset.",
    "benchmark": "Time the settings that a stream could have.",
    "profile": "Show where the time goes, in every process.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"omewd.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Options from a TOML file: a table for each command, top-level keys for all of them."""
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path} can't be read: {error}") from error
    common = {k: v for k, v in settings.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in settings.items() if isinstance(v, dict)}
    unknown = sorted(set(tables) - set(_COMMANDS))
    if unknown:
        raise click.BadParameter(f"{path} has a table [{unknown[0]}]; tables are named after commands")
    context.default_map = {
        name: {k.replace("-", "_"): v for k, v in {**common, **tables.get(name, {})}.items()} for name in _COMMANDS
    }


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "OMEWD", "help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with options; a table for each command.",
)
@click.option("--socket", type=click.Path(path_type=Path), envvar="OMEWD_SOCKET", help="The daemon's control socket.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, socket: Path | None) -> None:
    """Camera frames from shared memory to OME-Zarr on disk."""
    context.obj = socket


def main(arguments: list[str] | None = None) -> Any:
    """Run a command; every error is one line on standard error and an exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cli(args=arguments, prog_name="omewd", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        _show(arguments, OmewdError("usage", error.format_message(), "See omewd --help"), error.exit_code)
    except OmewdError as error:
        _show(arguments, error, error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        _show(arguments, OmewdError("interrupted", "interrupted"), EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_ERROR)


def _show(arguments: list[str], error: OmewdError, status: int) -> None:
    if "--json" in arguments:
        print(json.dumps({"error": error.to_dict()}))
    else:
        print(f"omewd: {error}", file=sys.stderr)
    sys.exit(status)
