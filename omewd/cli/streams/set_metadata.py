"""``omewd set-metadata``: put a value into a stream's dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from omewd.cli.options import client, example, json_option, socket_option, stream_names
from omewd.errors import OmewdError


@click.command("set-metadata", epilog=example('omewd set-metadata cam0 lab \'{"operator": "Ada"}\''))
@click.argument("name", shell_complete=stream_names)
@click.argument("namespace")
@click.argument("value")
@click.option("--position", help="Use the attributes of this position: its name, or its number from 0.")
@click.option("--well", help="Use the attributes of this well, such as B3, or, with --position, of a position in it.")
@json_option
@socket_option
def command(
    name: str,
    namespace: str,
    value: str,
    position: str | None,
    well: str | None,
    as_json: bool,
    socket: Path | None,
) -> None:
    """Put VALUE, any JSON, under NAMESPACE into the attributes of the dataset of stream NAME.

    VALUE may be @FILE, or @- for standard input. The namespace ome.omero sets how channels are shown. This works while
    the stream is open, and after it has ended.
    """
    try:
        if value.startswith("@"):
            value = sys.stdin.read() if value == "@-" else Path(value[1:]).read_text()
        parsed = json.loads(value)
    except (OSError, ValueError) as error:
        raise OmewdError(
            "usage", f"the metadata can't be read: {error}", 'Write it as in \'{"operator": "Ada"}\''
        ) from error
    client(socket).set_metadata(name, namespace, parsed, position=position, well=well)
    print(json.dumps({"name": name, "namespace": namespace}) if as_json else f"{name}: {namespace} is in the dataset")
