"""``omewd profile``: where the time goes, in every process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omewd.cli.options import client, example, socket_option
from omewd.errors import OmewdError
from omewd.model.spec.backend import HELP as BACKENDS
from omewd.model.spec.compression import HELP as COMPRESSIONS
from omewd.model.waits import StageWaits

if TYPE_CHECKING:
    from rich.console import Console

    from omewd.bench.plan import Column, Geometry, Options, Sample
    from omewd.bench.profile import Profile

_COLOURS = {"omewd/": "green", "<site-packages>/": "blue", "<stdlib>/": "dim"}


@click.command("profile", epilog=example("omewd profile --dims t:256:1:16,y:2048:256:8,x:2048:256:8"))
@click.option("--dims", "-d", help="name:count[:chunk[:shard]],… as for start-stream.")
@click.option(
    "--settings-file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file of settings."
)
@click.option("--backend", "-b", help=f"{BACKENDS}  [default: auto]")
@click.option("--compression", "-c", help=f"{COMPRESSIONS}  [default: none]")
@click.option("--dtype", help="Pixel type.  [default: uint16]")
@click.option("--writers", type=click.IntRange(1, 64), help="[default: as omewd serve]")
@click.option("--iterations", "-i", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--output-dir",
    "--benchmark-drive",
    "-r",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the drive to write to.  [default: the current one]",
)
@click.option("--durability", type=click.Choice(["fsync", "none"]), default="fsync", show_default=True)
@click.option("--data", type=click.Choice(["random", "camera"]), default="random", show_default=True)
@click.option(
    "--fps", type=click.FloatRange(min=0), default=0.0, help="Frames per second.  [default: as fast as possible]"
)
@click.option("--memory", default="4GiB", show_default=True, help="Memory budget of the daemon.")
@click.option("--sort", type=click.Choice(["time", "cumulative", "calls"]), default="time", show_default=True)
@click.option(
    "--top",
    "--top-n",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of functions in a table.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Keep the profiles in this file, for pstats."
)
@click.option(
    "--flamegraph",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also sample, and draw a flame graph to this SVG file.",
)
@click.option(
    "--speedscope",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also sample, to this JSON file for speedscope.",
)
@click.option("--raw", type=click.Path(dir_okay=False, path_type=Path), help="Also sample, to this text file.")
@click.option("--seconds", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="How long to sample.")
@click.option("--stream", help="Instead, sample the daemon and writers that are recording this stream.")
@socket_option
def command(
    dims: str | None,
    settings_file: Path | None,
    backend: str | None,
    compression: str | None,
    dtype: str | None,
    writers: int | None,
    output_dir: Path | None,
    sort: str,
    top: int,
    output: Path | None,
    flamegraph: Path | None,
    speedscope: Path | None,
    raw: Path | None,
    seconds: float,
    stream: str | None,
    socket: Path | None,
    **settings: Any,
) -> None:
    """Write a dataset with a profiler in the producer, the daemon and the writers, and show where the time goes.

    With --flamegraph, --speedscope or --raw (a line for each stack), write it again, sampled by py-spy. With
    --stream NAME, write nothing, and sample a daemon that is running.
    """
    from rich.console import Console

    from omewd.cli.measure.benchmark import check_folder_of, clean_up_when_interrupted

    clean_up_when_interrupted()
    for path in filter(None, (output, flamegraph, speedscope, raw)):
        check_folder_of(path)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    forms = {"flamegraph": flamegraph, "speedscope": speedscope, "raw": raw}
    pictures = {form: path for form, path in forms.items() if path}
    if pictures or stream:
        from omewd.bench.profile import spy

        spy()
    if stream is not None:
        _sample_stream(console, stream, socket, pictures, seconds, top)
        return
    from omewd.bench.plan import OMEWD, Column, Options
    from omewd.cli.measure.benchmark import geometries_of, settings_of
    from omewd.daemon.config import default_writers

    fields = settings_of(settings_file)
    options = Options(dtype=dtype or fields.get("dtype") or "uint16", warmups=0, **settings)
    geometries = geometries_of((dims,) if dims else (), fields, options.dtype)
    if len(geometries) != 1:
        raise OmewdError("usage", "profile takes one --dims")
    geometry = geometries[0]
    geometry.check()
    backend = backend or _only("backend", fields) or "auto"
    compression = compression or _only("compression", fields)
    column = Column(
        OMEWD,
        backend,
        None if compression == "none" else compression,
        writers or default_writers(),
    )
    geometry.spec(column, options)
    folder = (output_dir or Path.cwd()).absolute()
    _print_run(console, geometry, column, options)
    _with_cprofile(console, folder, geometry, column, options, sort, top, output)
    for form, path in pictures.items():
        from omewd.bench.profile import sampled

        runs, native = sampled(path, form, folder, geometry, column, options, seconds)
        how = f"py-spy over {runs} run{'s' if runs > 1 else ''} of the stream"
        if not native:
            how += ", without the stack frames of C libraries, which took too long"
        console.print(f"\n{form}: {path} ({how})", highlight=False, soft_wrap=True)


def _only(name: str, fields: dict[str, Any]) -> str | None:
    """A setting of the file, which may be a list with one element."""
    values = [fields[name]] if isinstance(fields.get(name), str) else fields.get(name) or [None]
    if len(values) > 1:
        raise OmewdError("usage", f"profile takes one {name}, but the settings file has {len(values)}")
    value: str | None = values[0]
    return value


def _print_run(console: Console, geometry: Geometry, column: Column, options: Options) -> None:
    console.print(f"[bold]Profiling {column.backend}[/]")
    for what, value in geometry.conditions(options):
        console.print(f"  {what}: {value}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  Compression: {column.compression or 'none'}\n  Writers: {column.writers}", highlight=False)


def _with_cprofile(
    console: Console,
    folder: Path,
    geometry: Geometry,
    column: Column,
    options: Options,
    sort: str,
    top: int,
    output: Path | None,
) -> None:
    from omewd.bench.profile import profile_paths, with_cprofile

    samples, profiles = with_cprofile(folder, geometry, column, options)
    _print_phases(console, samples, geometry)
    for profile in profiles:
        _print_functions(console, profile, sort, top)
    _print_waits(console, samples[-1].waits, "of the last run")
    if output is not None:
        paths = profile_paths(output)
        for profile in profiles:
            profile.stats.dump_stats(paths[profile.role])
        names = ", ".join(map(str, paths.values()))
        console.print(f"\nprofiles for pstats: {names}", highlight=False, soft_wrap=True)


def _print_phases(console: Console, samples: list[Sample], geometry: Geometry) -> None:
    console.print("\n[bold]Phases[/] (profiling slows Python code down: use omewd benchmark to measure speed)")
    for number, sample in enumerate(samples, 1):
        which = f" {number}" if len(samples) > 1 else ""
        cpu = ", ".join(f"{role} {seconds:.3f} s" for role, seconds in sample.cpu_s.items())
        console.print(
            f"  run{which}: create {sample.create_s:.3f} s, write {sample.write_s:.3f} s "
            f"({geometry.total_bytes / 1e9 / sample.write_s:.3f} GB/s); CPU: {cpu}",
            highlight=False,
        )


def _print_functions(console: Console, profile: Profile, sort: str, top: int) -> None:
    from rich.table import Table

    processes = f", {profile.processes} processes" if profile.processes > 1 else ""
    table = Table(title=f"{profile.role}{processes}: top {top} functions by {sort}", title_justify="left")
    table.add_column("Calls", justify="right", style="dim")
    table.add_column("Time", justify="right", style="bold cyan")
    table.add_column("Cumulative", justify="right", style="yellow")
    table.add_column("Location", overflow="fold")
    for function in profile.functions(sort)[:top]:
        recursive = function.primitive_calls != function.calls
        calls = f"{function.calls}/{function.primitive_calls}" if recursive else str(function.calls)
        colour = next((c for prefix, c in _COLOURS.items() if function.location.startswith(prefix)), None)
        table.add_row(
            calls,
            f"{function.time_s:.3f} s",
            f"{function.cumulative_s:.3f} s",
            _plain(function.location, colour),
        )
    console.print()
    console.print(table)


def _plain(text: str, colour: str | None) -> Any:
    from rich.text import Text

    return Text(text, style=colour or "")


def _print_waits(console: Console, waits: Mapping[str, StageWaits], when: str) -> None:
    from omewd.cli.show.waits import waits_table

    console.print(f"\n[bold]Where frames waited[/], by time stamps {when}")
    console.print(waits_table(waits))


def _sample_stream(
    console: Console, stream: str, socket: Path | None, pictures: dict[str, Path], seconds: float, top: int
) -> None:
    """Sample the daemon of a stream, and its writers."""
    from omewd.bench.profile import name_processes, sample_daemon, sampled_functions
    from omewd.bench.run.processes import roles_of

    daemon = client(socket)
    before = daemon.stream_status(stream)
    if before.settled:
        raise OmewdError("stream_stopped", f"stream {stream!r} has ended, so there is nothing to sample")
    status = daemon.daemon_status()
    roles = roles_of(status)
    console.print(f"[bold]Sampling[/] the daemon of {stream} and {len(roles) - 1} writers for {seconds:g} s")
    for form, path in pictures.items():
        sample_daemon(status.pid, path, form, seconds)
        name_processes(path, roles)
        console.print(f"{form}: {path}", highlight=False)
    if not pictures:
        with tempfile.TemporaryDirectory(prefix="omewd-profile-") as folder:
            raw = Path(folder) / "raw"
            sample_daemon(status.pid, raw, "raw", seconds)
            for process, functions in sampled_functions(raw, roles).items():
                _print_samples(console, process, functions, top)
    after = daemon.stream_status(stream)
    arrived = after.frames.received - before.frames.received
    console.print(f"\n{arrived} frames arrived meanwhile", highlight=False)
    _print_waits(console, after.recent_waits or after.waits, "of the last seconds")


def _print_samples(console: Console, process: str, functions: list[tuple[int, str]], top: int) -> None:
    from rich.table import Table

    total = sum(count for count, _ in functions)
    table = Table(
        title=f"{process}: top {top} functions, by the {total} samples in which it was busy", title_justify="left"
    )
    table.add_column("Samples", justify="right", style="bold cyan")
    table.add_column("Share", justify="right", style="yellow")
    table.add_column("Location", overflow="fold")
    for count, where in functions[:top]:
        table.add_row(str(count), f"{count / total:.0%}", _plain(where, None))
    console.print()
    console.print(table)
