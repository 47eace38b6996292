"""The ``omewd`` command. Sub-commands are imported when they are called; errors are shown in one place."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from omewd import __version__
from omewd.error_codes import EXIT_ERROR
from omewd.errors import OmewdError

# Folder and one line of help of each command, so that "omewd --help" imports none of them.
_COMMANDS = {
    "serve": ("service", "Run the daemon."),
    "start-stream": ("streams", "Open a stream: create its dataset and its ring."),
    "stop-stream": ("streams", "Take no more frames; write what has arrived."),
    "resume-stream": ("streams", "Resume a failed stream."),
    "set-metadata": ("streams", "Add metadata to a stream's dataset."),
    "view": ("streams", "Show or save a frame while the stream is recorded."),
    "status": ("streams", "Show streams, throughput and writers."),
    "ledger": ("datasets", "Show the record of each frame: times, metadata, gaps."),
    "verify": ("datasets", "Read a dataset back and say what is wrong."),
    "copy": ("datasets", "Copy a dataset to an object store or a server."),
    "repair": ("datasets", "Repair a dataset after a crash."),
    "web": ("service", "Show streams in the browser, serve data to viewers."),
    "health": ("service", "Say what is wrong with the daemon and its streams."),
    "doctor": ("service", "Say what this machine has and lacks for omewd."),
    "backends": ("service", "List the backends, and why some can't be used here."),
    "demo": ("service", "Try it: a daemon, a simulated camera, a dataset."),
    "benchmark": ("measure", "Time backends and settings on this machine."),
    "profile": ("measure", "Show where the time goes, in every process."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return _command(cmd_name) if cmd_name in _COMMANDS else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands without importing them."""
        names = [CompletionItem(name, help=one_line_help(name)) for name in _COMMANDS if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not ctx.resilient_parsing:
            from omewd.cli.errors import did_you_mean

            raise OmewdError("usage", f"No such command {args[0]!r}", did_you_mean(args[0], _COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in _COMMANDS.items()])


def one_line_help(name: str) -> str:
    """What a command does, in a line; "" if there is no such command."""
    return _COMMANDS.get(name, ("", ""))[1]


def _command(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"omewd.cli.{_COMMANDS[name][0]}.{name.replace('-', '_')}").command
    return command


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Options from a TOML file: a table for each command, top-level keys for all of them."""
    if path is None:
        return
    from omewd.cli.config import default_map

    context.default_map = default_map(path, _COMMANDS, _command)
    _tell(context, path)


def _tell(context: click.Context, path: Path) -> None:
    """Name the file to those who copy, here and in child processes, as long as the command runs."""
    before = os.environ.get("OMEWD_CONFIG")
    _name(str(path.absolute()))
    # A daemon that reads its configuration again comes here within itself.
    context.call_on_close(lambda: _name(before))


def _name(config: str | None) -> None:
    if config is None:
        os.environ.pop("OMEWD_CONFIG", None)
    else:
        os.environ["OMEWD_CONFIG"] = config


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "OMEWD", "help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file of options, with a table for each command.",
)
@click.option("--socket", type=click.Path(path_type=Path), envvar="OMEWD_SOCKET", help="The daemon's control socket.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, socket: Path | None) -> None:
    """Put camera frames from shared memory on disk as OME-Zarr."""
    context.obj = socket


def main(arguments: list[str] | None = None) -> Any:
    """Run a command; every error is one line on standard error and an exit status."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # programs that read a pipe wait for lines, too
    try:
        cli(args=arguments, prog_name="omewd", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        from omewd.cli.errors import usage_error

        _show(arguments, usage_error(error), error.exit_code)
    except OmewdError as error:
        _show(arguments, error, error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        _show(arguments, OmewdError("interrupted", "interrupted"), EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_ERROR)


def _show(arguments: list[str], error: OmewdError, status: int) -> None:
    from omewd.cli.errors import for_command_line, options_of, wants_json

    name = next((argument for argument in arguments if argument in _COMMANDS), None)
    error = for_command_line(error, options_of(_command(name)) if name else {})
    if wants_json(arguments):
        print(json.dumps({"error": error.to_dict()}))
    else:
        print(f"omewd: {error}", file=sys.stderr)
    sys.exit(status)
