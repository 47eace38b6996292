"""``omewd set-metadata``: put a mapping into a stream's dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from omewd.cli.options import client, json_option, socket_option
from omewd.errors import OmewdError


@click.command("set-metadata")
@click.argument("name")
@click.argument("namespace")
@click.argument("mapping")
@json_option
@socket_option
def command(name: str, namespace: str, mapping: str, as_json: bool, socket: Path | None) -> None:
    """Put MAPPING, a JSON object, under NAMESPACE into the attributes of the dataset of stream NAME.

    MAPPING may be @FILE, or @- for standard input. While the stream is open, or after it has ended.
    """
    try:
        if mapping.startswith("@"):
            text = sys.stdin.read() if mapping == "@-" else Path(mapping[1:]).read_text()
        else:
            text = mapping
        parsed = json.loads(text)
    except (OSError, ValueError) as error:
        raise OmewdError("usage", f"the metadata can't be read: {error}", 'Such as \'{"operator": "Ada"}\'') from error
    if not isinstance(parsed, dict):
        raise OmewdError("usage", f"metadata is a JSON object, this is {text.strip()[:40]}")
    client(socket).set_metadata(name, namespace, parsed)
    print(json.dumps({"name": name, "namespace": namespace}) if as_json else f"{name}: {namespace} is in the dataset")
