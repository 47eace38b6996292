"""``omewd resume-stream``: resume a failed stream."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omewd.cli.options import client, example, json_option, socket_option, stream_names


@click.command("resume-stream", epilog=example("omewd resume-stream cam0"))
@click.argument("name", shell_complete=stream_names)
@json_option
@socket_option
def command(name: str, as_json: bool, socket: Path | None) -> None:
    """Resume the failed stream NAME once the cause is removed: write what is still in its ring, and wait for it."""
    from omewd.cli.show.progress import follow

    daemon = client(socket)
    daemon.resume_stream(name)
    final = follow(daemon, name, quiet=as_json)
    if as_json:
        print(json.dumps(final.to_json(), indent=2))
