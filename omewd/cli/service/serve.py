"""``omewd serve``: run the daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from omewd.cli.options import example, socket_option

if TYPE_CHECKING:
    from omewd.daemon.config import ServeConfig


@click.command("serve", epilog=example("omewd serve --data-root /data/omewd --memory 8GiB"))
@socket_option
@click.option(
    "--data-root",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder in which datasets may be written; repeatable.  [default: the current folder]",
)
@click.option(
    "--copy-root",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder, as of a server, to which file:// copies of streams may go; repeatable.  [default: data roots]",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the journal, which a restart needs.",
)
@click.option("--memory", default="4GiB", show_default=True, help="Memory budget for rings and writers.")
@click.option(
    "--writers", type=click.IntRange(1, 64), help="Number of writer processes.  [default: one per core, at most 4]"
)
@click.option("--group", help="Unix group that may use the daemon.  [default: only this user]")
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option(
    "--job-timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Kill a writer that has not finished a job after this many seconds.",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Kill a writer that is not ready after this many seconds.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="How many seconds to go on writing when asked to stop.",
)
@click.option(
    "--on-stop",
    type=click.Choice(["drain", "keep"]),
    default="drain",
    show_default=True,
    help="When asked to stop, write what has arrived, or leave it in the rings to the next daemon.",
)
@click.option(
    "--ephemeral", is_flag=True, help="Leave nothing to the next daemon: give up what is not written in time."
)
@click.option(
    "--check", is_flag=True, help="Only say what is wrong with options, configuration file, folders and memory."
)
@click.pass_context
def command(context: click.Context, /, **_: object) -> None:
    """Run the daemon.

    On SIGTERM or Ctrl-C it writes what has arrived, and exits; see --on-stop. On SIGHUP it reads the configuration file
    again, and goes on.
    """
    from omewd.daemon.daemon import Daemon
    from omewd.daemon.logs import configure

    config = configuration(context)
    if context.params["check"]:
        _check(config)
    configure(config.log_format, config.log_level)
    sys.exit(Daemon(config, _read_again).run())


def _check(config: ServeConfig) -> NoReturn:
    """Print what is wrong, and exit."""
    from omewd.copier.access import tables
    from omewd.daemon.checks import problems
    from omewd.error_codes import EXIT_START

    found = [*problems(config), *tables.problems(os.environ)]
    for error in found:
        print(f"omewd: {error}", file=sys.stderr)
    if found:
        sys.exit(EXIT_START)
    print(f"fine: {config.writers} writers, {config.memory_bytes / 2**30:.1f} GiB, socket {config.socket}")
    print(f"data roots: {', '.join(map(str, config.data_roots))}")
    sys.exit(0)


def _read_again() -> ServeConfig:
    """The configuration that the command line and the environment of this process, and the file of today, give."""
    from omewd.cli.errors import usage_error
    from omewd.cli.main import cli

    try:
        with (
            cli.make_context("omewd", sys.argv[1:]) as root,
            command.make_context("serve", root.args, parent=root) as context,
        ):
            return configuration(context)
    except click.ClickException as error:
        raise usage_error(error) from error


def configuration(context: click.Context) -> ServeConfig:
    """What the options of ``omewd serve`` say. Raises OmewdError ``start_failed`` or ``usage``."""
    from omewd.daemon.config import ServeConfig, default_state_dir, default_writers, parse_size
    from omewd.errors import OmewdError
    from omewd.protocol.address import serve_socket

    given = context.params
    roots = tuple(root.absolute() for root in given["data_root"]) or (Path.cwd(),)
    for root in roots:
        if not root.is_dir():
            raise OmewdError("start_failed", f"the data root {root} is not a folder", "Create it, or name another")
    if given["ephemeral"] and given["on_stop"] == "keep":
        raise OmewdError("usage", "--ephemeral leaves nothing to a next daemon, but --on-stop is keep", "Drop one")
    return ServeConfig(
        socket=(given["socket"] or context.find_root().params["socket"] or serve_socket()).absolute(),
        data_roots=tuple(root.resolve() for root in roots),
        state_dir=(given["state_dir"] or default_state_dir()).absolute(),
        memory_bytes=parse_size(given["memory"]),
        writers=given["writers"] or default_writers(),
        log_format=given["log_format"],
        log_level=given["log_level"],
        group=given["group"],
        job_timeout_s=given["job_timeout"],
        start_timeout_s=given["start_timeout"],
        drain_timeout_s=given["drain_timeout"],
        on_stop=given["on_stop"],
        ephemeral=given["ephemeral"],
        copy_roots=tuple(root.resolve() for root in given["copy_root"]),
    )
