"""``omewd status``: what the daemon is doing."""

from __future__ import annotations

import json
import platform
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omewd.cli.options import client, example, json_option, socket_option, stream_names
from omewd.protocol.status import DaemonStatus, StreamStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console
    from rich.text import Text

_PIPE_WIDTH = 200
_POLL_S = 0.5


@click.command("status", epilog=example("omewd status cam0 --watch"))
@click.argument("name", required=False, shell_complete=stream_names)
@json_option
@click.option("--watch", is_flag=True, help="Keep running, and refresh twice a second.")
@click.option("--all", "every", is_flag=True, help="Show all streams that have ended, not only the last few.")
@socket_option
def command(name: str | None, as_json: bool, watch: bool, every: bool, socket: Path | None) -> None:
    """Show throughput, ring fill, frames and writers; with NAME, those of one stream.

    "lag" is the number of received frames that are not durable yet. The rate is the average since the first frame, or,
    with --watch, over the last seconds.
    """
    daemon = client(socket)
    if as_json:
        while True:
            print(json.dumps(daemon.status(name), indent=None if watch else 2))
            if not watch:
                return
            time.sleep(_POLL_S)

    from rich.console import Console

    def current() -> DaemonStatus | StreamStatus:
        return daemon.daemon_status() if name is None else daemon.stream_status(name)

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)  # a reader of a pipe wants everything
    if watch:
        _watch(console, current, every=every)
    else:
        console.print(_text(current(), console.width, every=every), soft_wrap=True)


def _watch(console: Console, current: Callable[[], DaemonStatus | StreamStatus], *, every: bool) -> None:
    """Show the status repeatedly: on a screen of its own, or in a pipe one after the other."""
    from rich.live import Live

    from omewd.cli.show.recent_rates import RecentRates

    rates = RecentRates()
    on_screen = console.is_terminal and not console.is_dumb_terminal

    def next_text() -> Text:
        status = current()
        now_s = time.monotonic()
        streams = status.streams if isinstance(status, DaemonStatus) else (status,)
        noted = {stream.id: rates.note(stream, now_s) for stream in streams}
        known = {number: rate for number, rate in noted.items() if rate is not None}
        return _text(status, console.width, height=console.height if on_screen else None, every=every, rates=known)

    text = next_text()
    if not on_screen:
        while True:
            console.print(text, soft_wrap=True)
            time.sleep(_POLL_S)
            text = next_text()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to restore the screen
    try:
        with Live(text, console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(_POLL_S)
                text = next_text()
                live.update(text, refresh=True)
    finally:
        console.print(text, soft_wrap=True)


def _text(status: DaemonStatus | StreamStatus, width: int, **options: Any) -> Text:
    from rich.text import Text

    from omewd.cli.show.status_lines import render

    advice = _advice(status.data_roots) if isinstance(status, DaemonStatus) else []
    lines = [Text(line.text, style=line.style) for line in render(status, width=width, advice=advice, **options)]
    return Text("\n", no_wrap=True).join(lines)


def _advice(data_roots: Iterable[str]) -> list[str]:
    """What would make writing under the data roots faster on this machine, where the daemon runs, too."""
    from omewd.store.filesystem import filesystem_of
    from omewd.store.kernels import advice

    release = platform.release()
    texts = (advice(root, filesystem_of(Path(root)), release) for root in data_roots)
    return [text for text in texts if text]
