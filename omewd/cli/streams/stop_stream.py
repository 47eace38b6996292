"""``omewd stop-stream``: take no more frames, and wait until all received ones are written."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omewd.cli.options import client, example, json_option, socket_option, stream_names
from omewd.protocol.status import KeptRingStatus


@click.command("stop-stream", epilog=example("omewd stop-stream cam0"))
@click.argument("name", shell_complete=stream_names)
@json_option
@socket_option
def command(name: str, as_json: bool, socket: Path | None) -> None:
    """Stop stream NAME: take no more frames, and return when all that has arrived is written.

    If the stream has failed, or could not be taken over, its ring is discarded together with the frames in it.
    """
    from omewd.cli.show.progress import follow

    daemon = client(socket)
    reply = daemon.stop_stream(name)
    if "let_go" in reply:
        kept = KeptRingStatus.from_json(reply["let_go"])
        print(
            json.dumps(reply, indent=2) if as_json else f"{name}: its ring of {kept.bytes / 2**20:.1f} MiB is discarded"
        )
        return
    final = follow(daemon, name, quiet=as_json)
    if as_json:
        print(json.dumps(final.to_json(), indent=2))
