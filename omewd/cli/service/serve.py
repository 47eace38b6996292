"""``omewd serve``: run the daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from omewd.cli.options import socket_option


@click.command("serve")
@socket_option
@click.option(
    "--data-root",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder in which datasets may be written; repeatable.  [default: the current folder]",
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
    "--ephemeral", is_flag=True, help="Leave nothing to the next daemon: give up what is not written in time."
)
@click.pass_context
def command(
    context: click.Context,
    socket: Path | None,
    data_root: tuple[Path, ...],
    state_dir: Path | None,
    memory: str,
    writers: int | None,
    group: str | None,
    log_format: str,
    log_level: str,
    job_timeout: float,
    start_timeout: float,
    drain_timeout: float,
    ephemeral: bool,
) -> None:
    """Run the daemon. On SIGTERM or Ctrl-C it writes what has arrived, and exits."""
    from omewd.daemon.config import ServeConfig, default_state_dir, default_writers, parse_size
    from omewd.daemon.daemon import Daemon
    from omewd.daemon.logs import configure
    from omewd.errors import OmewdError
    from omewd.protocol.address import serve_socket

    configure(log_format, log_level)
    roots = tuple(root.absolute() for root in data_root) or (Path.cwd(),)
    for root in roots:
        if not root.is_dir():
            raise OmewdError("start_failed", f"the data root {root} is not a folder", "Create it, or name another")
    config = ServeConfig(
        socket=(socket or context.find_root().obj or serve_socket()).absolute(),
        data_roots=tuple(root.resolve() for root in roots),
        state_dir=(state_dir or default_state_dir()).absolute(),
        memory_bytes=parse_size(memory),
        writers=writers or default_writers(),
        log_format=log_format,
        group=group,
        job_timeout_s=job_timeout,
        start_timeout_s=start_timeout,
        drain_timeout_s=drain_timeout,
        ephemeral=ephemeral,
    )
    sys.exit(Daemon(config).run())
