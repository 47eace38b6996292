"""``omewd backends``: which backends can be used here."""

from __future__ import annotations

import json

import click

from omewd.cli.options import example, json_option


@click.command("backends", epilog=example("omewd backends"))
@json_option
def command(as_json: bool) -> None:
    """List the backends, and why some can't be used here. "auto" takes the first one that can."""
    from omewd.model.spec.backend import BACKENDS
    from omewd.store.encoders import availability

    reasons = availability()
    if as_json:
        print(json.dumps(reasons, indent=2))
        return
    for name, reason in reasons.items():
        print(f"{name:14}{f'usable: {BACKENDS[name].about}' if reason is None else f'not usable: {reason}'}")
