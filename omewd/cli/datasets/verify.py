"""``omewd verify``: read a dataset back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from omewd.cli.options import example, json_option
from omewd.errors import OmewdError


class _DatasetOrUrl(click.Path):
    """The folder of a dataset, as a path, or the URL of a copy, as a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


@click.command("verify", epilog=example("omewd verify cam0.ome.zarr", "omewd verify s3://lab/cam0.ome.zarr"))
@click.argument("dataset", type=_DatasetOrUrl(exists=True, file_okay=False, path_type=Path))
@click.option("--deep", is_flag=True, help="Of a copy at a URL, download all and compare every byte.")
@json_option
def command(dataset: Path | str, deep: bool, as_json: bool) -> None:
    """Read all of DATASET back: metadata, every shard, the ledger. If anything is wrong, say what, and exit with 5.

    Of a copy, which is named by its URL, check the metadata, the ledger, and what the store says of every object.
    """
    from rich.console import Console
    from rich.progress import Progress

    from omewd.dataset.verify import verify

    if deep and isinstance(dataset, Path):
        raise OmewdError("usage", "--deep is for copies at a URL", "Leave it out: all of a dataset on disk is read")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        name = dataset.name if isinstance(dataset, Path) else dataset.rpartition("/")[2]
        task = progress.add_task(name, total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if isinstance(dataset, Path):
            report = verify(dataset, tell)
        else:
            from omewd.copier.verify import verify_copy

            report = verify_copy(dataset, deep=deep, progress=tell)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        for problem in report.problems:
            print(problem)
        for note in report.notes:
            print(f"note: {note}")
        for url, count in report.evicted_to.items():
            print(f"{count} keys are evicted: they are in {url}, and `omewd verify {url}` checks them there")
        print(
            f"{report.dataset}: {report.frames} frames ({report.written} written, {report.gaps} gaps), "
            f"{report.keys} files, {report.read_bytes / 1e6:.1f} MB read"
        )
    if report.problems:
        count = len(report.problems)
        error = OmewdError("incomplete", f"{report.dataset}: {count} problem{'s' * (count > 1)} found")
        if as_json:
            raise SystemExit(error.exit_status)
        raise error
    if not as_json:
        print("all is well")
