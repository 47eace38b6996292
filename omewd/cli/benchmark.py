"""``omewd benchmark``: time the settings that a stream could have."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omewd.errors import OmewdError

if TYPE_CHECKING:
    from rich.console import Console

    from omewd.bench.plan import Column, Geometry, Options, Outcome

_NO_DIMS = "Such as --dims t:128:1:16,y:2048:256:8,x:2048:256:8"


@click.command("benchmark")
@click.option("--dims", "-d", multiple=True, help="name:count[:chunk[:shard]],… as for start-stream; repeatable.")
@click.option(
    "--settings-file",
    "-f",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with dimensions (or dims), dtype, compression, backend.",
)
@click.option("--backend", "-b", multiple=True, help="Repeatable, or all.  [default: every usable one]")
@click.option("--compression", "-c", multiple=True, help="none, blosc-lz4, blosc-zstd or zstd; repeatable.")
@click.option("--dtype", help="Pixel type.  [default: uint16]")
@click.option("--warmups", "-w", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--iterations", "-i", "-n", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--writers", type=click.IntRange(1, 64), multiple=True, help="Repeatable.  [default: as omewd serve]")
@click.option(
    "--output-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the drive to test.  [default: the current one]",
)
@click.option("--durability", type=click.Choice(["fsync", "none"]), default="fsync", show_default=True)
@click.option("--data", type=click.Choice(["random", "camera"]), help="[default: random; camera with --recommend]")
@click.option(
    "--fps", type=click.FloatRange(min=0), default=0.0, help="Frames a second.  [default: as fast as it goes]"
)
@click.option("--memory", default="4GiB", show_default=True, help="Budget of the daemon.")
@click.option("--in-process", is_flag=True, help="Time each library called directly, too.")
@click.option("--peer", multiple=True, type=click.Choice(["ome-writers"]), help="Time it too, in turn.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it, to this PNG file.")
@click.option("--recommend", is_flag=True, help="Try chunks, shards, backends and compressions; print the best.")
@click.option("--time-limit", type=click.FloatRange(min=1), default=120.0, show_default=True, help="For --recommend.")
def command(
    dims: tuple[str, ...],
    settings_file: Path | None,
    backend: tuple[str, ...],
    compression: tuple[str, ...],
    dtype: str | None,
    writers: tuple[int, ...],
    output_dir: Path | None,
    form: str,
    plot: Path | None,
    in_process: bool,
    peer: tuple[str, ...],
    recommend: bool,
    time_limit: float,
    data: str | None,
    **settings: Any,
) -> None:
    """Time datasets of the given dimensions through a daemon of its own, with real camera and writer processes.

    The clock runs from the first append until all is on disk. Columns are timed in turn, beside plain writes of
    the same volume to the same drive. What is made is removed.
    """
    from rich.console import Console

    from omewd.bench.plan import IN_PROCESS, Options, columns
    from omewd.daemon.config import default_writers

    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # clean up after either
    fields = settings_of(settings_file)
    options = Options(
        dtype=dtype or fields.get("dtype") or "uint16",
        data=data or ("camera" if recommend else "random"),
        **settings,
    )
    geometries = geometries_of(dims, fields, options.dtype)
    chosen = columns(
        _backends(backend or _listed(fields.get("backend"))),
        _compressions(compression or _listed(fields.get("compression"))),
        list(dict.fromkeys(writers)) or [default_writers()],
        [*([IN_PROCESS] if in_process else []), *dict.fromkeys(peer)],
    )
    folder = (output_dir or Path.cwd()).absolute()
    console = Console(stderr=form != "table")
    if not console.is_terminal:
        console = Console(stderr=form != "table", width=200)
    if plot is not None:
        _require_plots()
    if recommend:
        from omewd.cli.recommend import recommend as find

        find(console, geometries, chosen, options, folder, time_limit, explicit=bool(compression))
        return
    for geometry in geometries:
        geometry.check()
    outcomes = _run(console, geometries, chosen, options, folder, shown=form == "table")
    _print(form, outcomes, options)
    if plot is not None:
        from omewd.bench.plot import draw

        draw(outcomes, options, plot)
        console.print(f"drawn: {plot}", highlight=False)
    _check(outcomes)


def settings_of(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise OmewdError("usage", f"{path} is not JSON: {error}") from error
    known = {"dimensions", "dims", "dtype", "compression", "backend"}
    if not isinstance(fields, dict) or set(fields) - known:
        unknown = sorted(set(fields) - known)[:1] if isinstance(fields, dict) else []
        what = f"has {unknown[0]!r}" if unknown else "holds no JSON object"
        raise OmewdError("usage", f"{path} {what}", f"A benchmark's settings are {', '.join(sorted(known))}")
    return fields


def _listed(value: Any) -> tuple[str, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def geometries_of(dims: tuple[str, ...], fields: dict[str, Any], dtype: str) -> list[Geometry]:
    from pydantic import ValidationError

    from omewd.bench.candidates import as_dims
    from omewd.bench.plan import Geometry
    from omewd.model.dimensions import Dimension, parse_dims

    texts = list(dict.fromkeys((*dims, *_listed(fields.get("dims")))))
    geometries = [Geometry(text, parse_dims(text), dtype) for text in texts]
    if "dimensions" in fields:
        try:
            dimensions = tuple(Dimension.model_validate(d) for d in fields["dimensions"])
        except (ValidationError, TypeError) as error:
            raise OmewdError("bad_spec", f"the dimensions of the settings file are wrong: {error}") from error
        geometries.append(Geometry(as_dims(dimensions), dimensions, dtype))
    if not geometries:
        raise OmewdError("usage", "--dims is missing", _NO_DIMS)
    return geometries


def _backends(asked: tuple[str, ...]) -> list[str]:
    """The backends to time: those that were named, usable or not; else every usable one."""
    from omewd.writer.backends import availability

    reasons = availability()
    if not asked or "all" in asked:
        return [name for name, reason in reasons.items() if reason is None]
    unknown = [name for name in asked if name not in reasons]
    if unknown:
        raise OmewdError("usage", f"there is no backend {unknown[0]!r}", f"It is one of {', '.join(reasons)}, or all")
    return list(dict.fromkeys(asked))


def _compressions(asked: tuple[str, ...]) -> list[str | None]:
    return [None if name == "none" else name for name in dict.fromkeys(asked)] or [None]


def _require_plots() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise OmewdError("usage", "--plot needs matplotlib, which is not installed", "pip install 'omewd[plot]'")


def _run(
    console: Console, geometries: list[Geometry], chosen: list[Column], options: Options, folder: Path, *, shown: bool
) -> list[Outcome]:
    from omewd.bench.report import print_configuration, print_outcome

    print_configuration(console, geometries, chosen, options, str(folder))
    outcomes = []
    for geometry in geometries:
        console.print(f"\n[bold yellow]Benchmarking[/] {geometry.dims}", highlight=False, soft_wrap=True)
        outcomes.append(_run_one(console, geometry, chosen, options, folder))
        if shown:
            print_outcome(console, outcomes[-1], options)
    return outcomes


def _run_one(console: Console, geometry: Geometry, chosen: list[Column], options: Options, folder: Path) -> Outcome:
    """Time one geometry, with a bar for each column and a line when it is complete."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from omewd.bench.benchmark import Bench
    from omewd.bench.plan import Timed

    rounds = options.warmups + options.iterations
    bars = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ended: set[Column] = set()
    with Bench(folder, options) as bench, Progress(*bars, console=console, disable=not console.is_terminal) as progress:
        tasks = {column: progress.add_task(column.label(chosen), total=rounds) for column in chosen}

        def note(timed: Timed, done: int) -> None:
            column = timed.column
            if column in ended:
                return
            progress.update(tasks[column], completed=done)
            if timed.error is not None:
                text = f"  ✗ {column.label(chosen)} failed: {timed.error}"
                console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
            elif done == rounds:
                console.print(f"  ✓ {column.label(chosen)} complete", style="green", markup=False, highlight=False)
            else:
                return
            ended.add(column)

        return bench.run(geometry, chosen, note)


def _print(form: str, outcomes: list[Outcome], options: Options) -> None:
    from omewd.bench import report

    match form:
        case "json":
            print(report.as_json(outcomes, options))
        case "csv":
            print(report.as_csv(outcomes, options))
        case "markdown":
            print(report.as_markdown(outcomes, options))


def _check(outcomes: list[Outcome]) -> None:
    """Exit with an error if a column has no figures, or the disk none."""
    failed = [timed for outcome in outcomes for timed in outcome.timed if timed.error is not None]
    if failed:
        count = sum(len(outcome.timed) for outcome in outcomes)
        raise OmewdError("error", f"{len(failed)} of {count} columns failed: {failed[0].error}")
    for outcome in outcomes:
        if outcome.disk_error:
            raise OmewdError("error", f"the disk could not be measured: {outcome.disk_error}")
