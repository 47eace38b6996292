"""``omewd health``: what is wrong with the daemon and its streams, for monitors and for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from omewd.cli.options import client, example, json_option, socket_option, stream_names


@click.command("health", epilog=example("omewd health --silent 300"))
@click.argument("name", required=False, shell_complete=stream_names)
@click.option(
    "--silent",
    "silent_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How many seconds may pass between two frames of a camera.",
)
@click.option(
    "--disk-lasts",
    "disk_lasts_s",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="How many seconds the disk must last at the present rate.",
)
@json_option
@socket_option
def command(name: str | None, silent_s: float, disk_lasts_s: float, as_json: bool, socket: Path | None) -> None:
    """Say what is wrong, in one line a problem; with NAME, of one stream.

    Problems are streams that have failed or are paused, cameras that are gone or silent, dropped frames, a disk that is
    nearly full, and a daemon without writers. The exit status is 0 if all is well, 1 if there are problems, and 4 if
    the daemon can't be reached. A failed stream is reported until omewd stop-stream was run for it.
    """
    from omewd.cli.errors import with_options
    from omewd.error_codes import EXIT_ERROR
    from omewd.health.problems import Limits, problems

    daemon = client(socket)
    status = daemon.daemon_status() if name is None else daemon.stream_status(name)
    found = problems(status, Limits(silent_s, disk_lasts_s))
    if as_json:
        print(json.dumps({"healthy": not found, "problems": [problem.to_json() for problem in found]}, indent=2))
    else:
        for problem in found:
            text = f"{problem.message.rstrip('.')}. {problem.remedy}" if problem.remedy else problem.message
            print(f"{problem.stream or 'daemon'}: {with_options(text, {})}")
        if not found:
            print("all is well")
    if found:
        sys.exit(EXIT_ERROR)
