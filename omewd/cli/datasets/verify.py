"""``omewd verify``: read a dataset back."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omewd.cli.options import example, json_option
from omewd.errors import OmewdError


@click.command("verify", epilog=example("omewd verify cam0.ome.zarr"))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def command(dataset: Path, as_json: bool) -> None:
    """Read all of DATASET back: metadata, every shard, the ledger. If anything is wrong, say what, and exit with 5."""
    from rich.console import Console
    from rich.progress import Progress

    from omewd.dataset.verify import verify

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task(dataset.name, total=None)
        report = verify(dataset, lambda done, total: progress.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        for problem in report.problems:
            print(problem)
        for note in report.notes:
            print(f"note: {note}")
        print(
            f"{dataset}: {report.frames} frames ({report.written} written, {report.gaps} gaps), "
            f"{report.keys} files, {report.read_bytes / 1e6:.1f} MB read"
        )
    if report.problems:
        count = len(report.problems)
        error = OmewdError("incomplete", f"{dataset}: {count} problem{'s' * (count > 1)} found")
        if as_json:
            raise SystemExit(error.exit_status)
        raise error
    if not as_json:
        print("all is well")
