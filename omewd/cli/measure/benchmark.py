"""``omewd benchmark``: time the settings that a stream could have."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omewd.cli.options import example
from omewd.cli.settings_file import read_settings
from omewd.errors import OmewdError
from omewd.model.spec.backend import HELP as BACKENDS
from omewd.model.spec.compression import HELP as COMPRESSIONS
from omewd.model.spec.compression import canonical

if TYPE_CHECKING:
    from rich.console import Console

    from omewd.bench.plan import Column, Geometry, Options, Outcome

_ITERATIONS, _TIME_LIMIT_S, _RECOMMEND_LIMIT_S = 10, 300.0, 120.0
_NO_DIMS = "Give it as in --dims t:128:1:16,y:2048:256:8,x:2048:256:8"


@click.command(
    "benchmark",
    epilog=example(
        "omewd benchmark --dims t:256:1:16,y:2048:256:8,x:2048:256:8 --backend direct",
        "omewd benchmark --dims t:256,y:2048,x:2048 --fps 100 --recommend",
    ),
)
@click.option("--dims", "-d", multiple=True, help="name:count[:chunk[:shard]],… as for start-stream; repeatable.")
@click.option(
    "--settings-file",
    "-f",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with dimensions (or dims), dtype, compression, backend.",
)
@click.option("--backend", "-b", multiple=True, help=f"{BACKENDS} Or all; repeatable.  [default: every usable one]")
@click.option("--compression", "-c", multiple=True, help=f"{COMPRESSIONS} Repeatable.")
@click.option("--dtype", help="Pixel type.  [default: uint16]")
@click.option("--warmups", "-w", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--iterations", "-i", "-n", type=click.IntRange(min=1), help="[default: 10, or fewer within five minutes]"
)
@click.option(
    "--writers",
    type=click.IntRange(1, 64),
    multiple=True,
    help="Number of writers; repeatable.  [default: as omewd serve]",
)
@click.option(
    "--cameras", type=click.IntRange(1, 256), multiple=True, help="Number of cameras at once; repeatable.  [default: 1]"
)
@click.option(
    "--levels", type=click.IntRange(1, 16), multiple=True, help="Number of resolutions; repeatable.  [default: 1]"
)
@click.option(
    "--output-dir",
    "--benchmark-drive",
    "-r",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the drive to test.  [default: the current one]",
)
@click.option("--durability", type=click.Choice(["fsync", "none"]), default="fsync", show_default=True)
@click.option("--data", type=click.Choice(["random", "camera"]), help="[default: random; camera with --recommend]")
@click.option(
    "--fps", type=click.FloatRange(min=0), default=0.0, help="Frames per second.  [default: as fast as possible]"
)
@click.option("--frame-metadata", is_flag=True, help="Hand each frame over with metadata of its own.")
@click.option("--memory", default="4GiB", show_default=True, help="Memory budget of the daemon.")
@click.option("--in-process", is_flag=True, help="Also time each library called directly.")
@click.option("--peer", multiple=True, type=click.Choice(["ome-writers"]), help="Also time this program, in turn.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the result to this PNG file.")
@click.option("--recommend", is_flag=True, help="Try chunks, shards, backends and compressions, and print the best.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    help="Begin no round after this many seconds.  [default: 300, none with --iterations, 120 with --recommend]",
)
def command(
    dims: tuple[str, ...],
    settings_file: Path | None,
    backend: tuple[str, ...],
    compression: tuple[str, ...],
    dtype: str | None,
    writers: tuple[int, ...],
    cameras: tuple[int, ...],
    levels: tuple[int, ...],
    output_dir: Path | None,
    form: str,
    plot: Path | None,
    in_process: bool,
    peer: tuple[str, ...],
    recommend: bool,
    time_limit: float | None,
    iterations: int | None,
    data: str | None,
    **settings: Any,
) -> None:
    """Time datasets of the given dimensions through a private daemon, with real camera and writer processes.

    The clock runs from the first append until all is on disk. Columns are timed in turn, beside plain writes of the
    same volume to the same drive, copies of frames, and the codecs alone. Everything that is made is removed. With
    several cameras, each has a dataset of these dimensions, in one daemon; figures are for all of them together.
    """
    from rich.console import Console

    from omewd.bench.benchmark import check_space
    from omewd.bench.plan import IN_PROCESS, Options, columns
    from omewd.daemon.config import default_writers, parse_size

    clean_up_when_interrupted()
    fields = settings_of(settings_file)
    parse_size(settings["memory"])
    options = Options(
        dtype=dtype or fields.get("dtype") or "uint16",
        data=data or ("camera" if recommend else "random"),
        iterations=iterations or _ITERATIONS,
        time_limit_s=time_limit or (None if iterations else _TIME_LIMIT_S),
        **settings,
    )
    geometries = geometries_of(dims, fields, options.dtype)
    _check_peers(peer)
    chosen = columns(
        _backends(backend or _listed(fields.get("backend"))),
        _compressions(compression or _listed(fields.get("compression"))),
        list(dict.fromkeys(writers)) or [default_writers()],
        [*([IN_PROCESS] if in_process else []), *dict.fromkeys(peer)],
        list(dict.fromkeys(cameras)) or [1],
        list(dict.fromkeys(levels)) or [1],
        _libraries(),
    )
    folder = (output_dir or Path.cwd()).absolute()
    console = Console(stderr=form != "table")
    if not console.is_terminal:
        console = Console(stderr=form != "table", width=200)
    if recommend:
        from omewd.cli.measure.recommend import recommend as find

        given: dict[str, object] = {"--format": form != "table", "--plot": plot, "--in-process": in_process}
        given |= {"--peer": peer, "--cameras": cameras, "--levels": levels}
        if meaningless := [name for name, value in given.items() if value]:
            raise OmewdError("usage", f"{meaningless[0]} has no meaning with --recommend", "Leave it out")
        find(console, geometries, chosen, options, folder, time_limit or _RECOMMEND_LIMIT_S, explicit=bool(compression))
        return
    if plot is not None:
        _check_plot(plot)
    for geometry in geometries:
        geometry.check()
        check_space(folder, geometry, chosen)
    outcomes = _run(console, geometries, chosen, options, folder, shown=form == "table")
    _print(form, outcomes, options)
    if plot is not None:
        from omewd.bench.report.plot import draw

        draw(outcomes, options, plot)
        console.print(f"plot: {plot}", highlight=False)
    if error := _failure(outcomes):
        if form != "json":
            raise error
        console.print(f"omewd: {error}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_status)  # the JSON document has the errors; a second document must not follow


def clean_up_when_interrupted() -> None:
    """Let signals that end the program raise KeyboardInterrupt, even if a shell has set them to be ignored."""
    from omewd.bench.benchmark import INTERRUPTS

    for number in INTERRUPTS:
        signal.signal(number, signal.default_int_handler)


def settings_of(path: Path | None) -> dict[str, Any]:
    """The fields of a settings file; raises OmewdError ``usage`` for unknown fields and wrong types."""
    fields = read_settings(path)
    for name, value in fields.items():
        if name not in _SETTINGS:
            raise OmewdError(
                "usage", f"{path} has an unknown field {name!r:.80}", f"The fields are {', '.join(_SETTINGS)}"
            )
        if not all(isinstance(item, _SETTINGS[name]) for item in _listed(value)):
            raise OmewdError("usage", f"{path}: {name} can't be {value!r:.80}")
    return fields


# The fields of a settings file and their types; each may also be a list of them.
_SETTINGS: dict[str, type] = {"dimensions": dict, "dims": str, "dtype": str, "compression": str, "backend": str}


def _listed(value: Any) -> tuple[str, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def geometries_of(dims: tuple[str, ...], fields: dict[str, Any], dtype: str) -> list[Geometry]:
    from omewd.bench.candidates import as_dims
    from omewd.bench.plan import Geometry
    from omewd.model.spec.dimensions import parse_dims
    from omewd.model.spec.spec import StreamSpec

    texts = list(dict.fromkeys((*dims, *_listed(fields.get("dims")))))
    geometries = [Geometry(text, parse_dims(text), dtype) for text in texts]
    if "dimensions" in fields:
        # A spec of the dimensions alone, so that errors in them read as for any stream.
        spec = StreamSpec.parse({"name": "benchmark", "dimensions": fields["dimensions"], "dtype": dtype})
        geometries.append(Geometry(as_dims(spec.dimensions), spec.dimensions, dtype))
    if not geometries:
        raise OmewdError("usage", "--dims is missing", _NO_DIMS)
    for geometry in geometries:
        geometry.check_dimensions()
    return geometries


def _backends(asked: tuple[str, ...]) -> list[str]:
    """The backends to time: the named ones, usable or not, or every usable one."""
    from omewd.store.encoders import availability

    reasons = availability()
    if not asked or "all" in asked:
        return [name for name, reason in reasons.items() if reason is None]
    unknown = [name for name in asked if name not in reasons]
    if unknown:
        raise OmewdError("usage", f"there is no backend {unknown[0]!r}", f"Use one of {', '.join(reasons)}, or all")
    return list(dict.fromkeys(asked))


def _libraries() -> list[str]:
    """The usable backends that are libraries, which other programs have, too."""
    from omewd.model.spec.backend import BACKENDS
    from omewd.store.encoders import availability

    return [name for name, reason in availability().items() if reason is None and not BACKENDS[name].is_own]


def _check_peers(peers: tuple[str, ...]) -> None:
    """Check beforehand whether the programs to compare with are there."""
    from importlib.util import find_spec

    for peer in peers:
        if find_spec(peer.replace("-", "_")) is None:
            raise OmewdError("usage", f"--peer {peer}: {peer} is not installed", f"pip install {peer}")


def _compressions(asked: tuple[str, ...]) -> list[str | None]:
    return list(dict.fromkeys(map(_compression, asked))) or [None]


def _compression(name: str) -> str | None:
    try:
        return canonical(name)
    except ValueError as error:
        raise OmewdError("usage", f"compression: {error} (got {name!r:.80})") from error


def _check_plot(path: Path) -> None:
    """Check beforehand whether the plot can be drawn."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise OmewdError("usage", "--plot needs matplotlib, which is not installed", "pip install 'omewd[plot]'")
    if path.suffix.lower() != ".png":
        raise OmewdError("usage", f"--plot writes a PNG file, but the name is {path.name!r}", "Use a name in .png")
    check_folder_of(path)


def check_folder_of(path: Path) -> None:
    """Check beforehand whether the result can be written."""
    if not path.absolute().parent.is_dir():
        raise OmewdError("usage", f"{path.absolute().parent} is not a folder", "Create it, or choose another")


def _run(
    console: Console, geometries: list[Geometry], chosen: list[Column], options: Options, folder: Path, *, shown: bool
) -> list[Outcome]:
    """Time all geometries. Each one gets an equal share of the time that is left."""
    from omewd.bench.report.report import print_configuration, print_outcome

    print_configuration(console, geometries, chosen, options, str(folder))
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for number, geometry in enumerate(geometries):
        of_this = options
        if options.time_limit_s:
            left_s = max(options.time_limit_s - (time.monotonic() - began), 0.0)
            of_this = replace(options, time_limit_s=left_s / (len(geometries) - number))
        console.print(f"\n[bold yellow]Benchmarking[/] {geometry.dims}", highlight=False, soft_wrap=True)
        outcomes.append(_run_one(console, geometry, chosen, of_this, folder))
        if shown:
            print_outcome(console, outcomes[-1], options)
    return outcomes


def _run_one(console: Console, geometry: Geometry, chosen: list[Column], options: Options, folder: Path) -> Outcome:
    """Time one geometry, with a bar for each column, and a line when the column is complete."""
    from omewd.bench.benchmark import Bench
    from omewd.cli.measure.benchmark_bars import Bars

    rounds = options.warmups + options.iterations
    with Bench(folder, options) as bench, Bars(console, geometry, chosen, rounds) as bars:
        outcome = bench.run(geometry, chosen, bars)
        for timed in outcome.timed:
            if timed.error is None:
                bars.complete(timed.column)
    if outcome.iterations < options.iterations and any(timed.samples for timed in outcome.timed):
        console.print(
            f"  {outcome.iterations} of {options.iterations} iterations: another round would have exceeded the time "
            f"limit of {options.time_limit_s:.0f} s; give --iterations or --time-limit for more",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    return outcome


def _print(form: str, outcomes: list[Outcome], options: Options) -> None:
    from omewd.bench.report import report

    match form:
        case "json":
            print(report.as_json(outcomes, options))
        case "csv":
            print(report.as_csv(outcomes, options))
        case "markdown":
            print(report.as_markdown(outcomes, options))


def _failure(outcomes: list[Outcome]) -> OmewdError | None:
    """The error to report at the end: a column failed, or a ceiling could not be measured."""
    failed = [timed for outcome in outcomes for timed in outcome.timed if timed.error is not None]
    if failed:
        count = sum(len(outcome.timed) for outcome in outcomes)
        return OmewdError("error", f"{len(failed)} of {count} columns failed: {failed[0].error}")
    for outcome in outcomes:
        if outcome.disk_error:
            return OmewdError("error", f"the disk could not be measured: {outcome.disk_error}")
        if outcome.cores_error:
            return OmewdError("error", outcome.cores_error)
    return None
