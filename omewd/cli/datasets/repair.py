"""``omewd repair``: repair a dataset as far as possible."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omewd.cli.options import example, json_option
from omewd.errors import OmewdError


@click.command("repair", epilog=example("omewd repair cam0.ome.zarr"))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def command(dataset: Path, as_json: bool) -> None:
    """Repair DATASET after a crash: restore shape and totals, remove leftovers, and say what can't be repaired.

    Pixels of frames on record are never touched. Don't use it where the daemon will be started again: the daemon goes
    on with the dataset by itself.
    """
    from rich.console import Console
    from rich.progress import Progress

    from omewd.dataset.repair import repair

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task(dataset.name, total=None)
        result = repair(dataset, lambda done, total: progress.update(task, completed=done, total=total))
    problems = result.after.problems
    if as_json:
        document = {"mended": result.mended, "before": result.before.to_dict(), "after": result.after.to_dict()}
        print(json.dumps(document, indent=2))
        if problems:
            raise SystemExit(OmewdError("incomplete", "").exit_status)
        return
    for line in result.mended:
        print(f"repaired: {line}")
    for problem in problems:
        print(f"can't be repaired: {problem}")
    if problems:
        count = len(problems)
        raise OmewdError("incomplete", f"{dataset}: {count} problem{'s' * (count > 1)} can't be repaired")
    print("all is well" if result.mended else "nothing to repair")
