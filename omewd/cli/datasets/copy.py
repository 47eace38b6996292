"""``omewd copy``: copy a finished dataset into an object store or onto a server."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click

from omewd.cli.options import example, json_option, to_byte_rate
from omewd.errors import OmewdError


@click.command("copy", epilog=example("omewd copy cam0.ome.zarr s3://lab/cam0.ome.zarr"))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("url")
@click.option("--limit", callback=to_byte_rate, help="Send no more than this, as in 200MB/s.")
@click.option("--evict", is_flag=True, help="Remove shards and chunks from the disk once their copy is confirmed.")
@json_option
def command(dataset: Path, url: str, limit: float | None, evict: bool, as_json: bool) -> None:
    """Copy DATASET, which is finished, to URL: s3://, gs://, az:// or file:///. Each file is confirmed.

    Run it again after an interruption, and it goes on where it was. Credentials come from the environment, from the
    profile files of AWS, or from tables [stores."s3://BUCKET"] in the file of --config.

    With --evict, the metadata and the ledger stay in DATASET, and a record of what is where.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from omewd.cli.show.text import still_missing
    from omewd.cli.show.units import byte_rate, volume
    from omewd.copier.copy import copy

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as with Ctrl-C, uploads are aborted
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    quiet = as_json or not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(dataset.name, total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            outcome = copy(dataset, url, limit, tell, evict=evict)
        except OSError as error:
            raise OmewdError("disk_error", f"{error.filename or dataset}: {error.strerror or error}") from error
    if as_json:
        print(json.dumps(outcome.to_dict(), indent=2))
        return
    gone = ""
    if outcome.evicted_files:
        gone = f"; {outcome.evicted_files} files, {volume(outcome.evicted_bytes)}, are evicted, so only there"
    rate = byte_rate(outcome.copied_bytes / outcome.seconds) if outcome.seconds else ""
    print(
        f"{outcome.url}: {outcome.files} files, {volume(outcome.bytes)}, all confirmed; {outcome.copied_files} files, "
        f"{volume(outcome.copied_bytes)} copied in {outcome.seconds:.1f} s = {rate}{gone}"
        f"{still_missing(outcome.missing)}"
    )
