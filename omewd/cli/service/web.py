"""``omewd web``: look at daemons and their streams with a browser, a viewer or Prometheus."""

from __future__ import annotations

from pathlib import Path

import click

from omewd.cli.options import example
from omewd.web.addresses import LISTEN


@click.command("web", epilog=example("omewd web", "omewd web --listen 0.0.0.0:8420 --token-file token"))
@click.option("--listen", default=LISTEN, show_default=True, help="Address and port.")
@click.option(
    "--socket",
    "sockets",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A daemon's control socket; repeatable.  [default: $OMEWD_SOCKET, or the daemon's default]",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Only answer who knows the token in this file. Needed on other addresses than those of this machine.",
)
def command(listen: str, sockets: tuple[Path, ...], token_file: Path | None) -> None:
    """Show daemons and their streams in the browser, and serve their data, read-only, until Ctrl-C.

    / is a page with live pictures and figures. /data/NAME/ is a stream's dataset for viewers, such as napari and
    neuroglancer, while it is recorded and afterwards. /metrics is for Prometheus, /healthz and /readyz for
    supervisors, /api/status is what omewd status --json shows.
    """
    from omewd.web.serve import serve

    given: list[Path | None] = [*sockets] or [click.get_current_context().find_root().obj]
    serve(listen, given, token_file, click.echo)
