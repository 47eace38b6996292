"""Formats what ``omewd status`` shows as lines of a given width. Pure.

Numbers are never cut. If space is short, names are shortened first, then optional columns are left out; if that is not
enough, a stream takes several lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from omewd.cli.errors import with_options
from omewd.cli.show.text import padded, shortened, still_missing, text_width
from omewd.cli.show.units import byte_rate, duration, frame_rate, long_duration, volume
from omewd.cli.show.waits import slowest_stage, waits_rows
from omewd.protocol.status import (
    CopyStatus,
    DaemonStatus,
    DiskStatus,
    FramesStatus,
    KeptRingStatus,
    SourceStatus,
    StreamStatus,
)

# More ended streams are shown on request.
ENDED_SHOWN = 5
# Columns in the order in which they are left out; the others say how an acquisition is doing.
_OPTIONAL = ("written", "in flight", "durable")
_LAST_OPTIONAL = "rate"
_LEFT = ("stream", "state")
_LONG_NAME, _SHORT_NAME = 24, 12
_GAP = "  "
# A disk that lasts longer than this is not worth a line among other streams.
_SOON_S = 86400.0
_STYLES = {"FAILED": "red", "PAUSED": "yellow"}

Rate = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line; ``style`` is one of rich's."""

    text: str
    style: str = ""


def render(
    status: DaemonStatus | StreamStatus,
    *,
    width: int,
    height: int | None = None,
    every: bool = False,
    rates: Mapping[int, Rate] | None = None,
    advice: Sequence[str] = (),
) -> list[Line]:
    """The lines for the status of a daemon or of one stream.

    ``height``: the most lines. ``every``: show all ended streams. ``rates``: frames and bytes a second by the streams'
    ids; the default is the average since the first frame. ``advice``: what would make writing faster on this machine.
    """
    rates = rates or {}
    if isinstance(status, StreamStatus):
        return _one_stream(status, width, rates)[:height]
    ended = len(status.streams) if every else ENDED_SHOWN
    lines = _all_streams(status, width, rates, advice, ended=ended)
    if height is None or len(lines) <= height:
        return lines
    # Leave out ended streams first, then details, then the last streams.
    for detailed in (True, False):
        for fewer in range(ended, -1, -1):
            lines = _all_streams(status, width, rates, advice, ended=fewer, detailed=detailed)
            if len(lines) <= height:
                return lines
    for most in range(len(status.streams) - 1, 0, -1):
        lines = _all_streams(status, width, rates, advice, ended=0, detailed=False, most=most)
        if len(lines) <= height:
            return lines
    return lines[:height]


def _all_streams(
    status: DaemonStatus,
    width: int,
    rates: Mapping[int, Rate],
    advice: Sequence[str],
    *,
    ended: int,
    detailed: bool = True,
    most: int | None = None,
) -> list[Line]:
    """``most``: the most streams to show. ``detailed``: include advice, and notes that are not problems."""
    everything = status.streams
    hidden = {stream.id for stream in [s for s in everything if _is_over(s)][ended:]}  # the latest come first
    shown = [stream for stream in everything if stream.id not in hidden][:most]
    lines = _wrapped(_daemon(status), width)
    for text in advice if detailed else ():
        lines += _wrapped(text, width)
    lines += _table(shown, width, rates) if shown else [] if everything else [Line("no streams")]
    for stream in shown:
        for note in _notes(stream, detailed=detailed):
            lines += _wrapped(f"{stream.name}{note}", width)
    for kept in status.kept_rings:
        lines += _wrapped(_kept(kept), width)
    told = {(stream.path, stream.copy.url) for stream in everything if stream.copy is not None}
    for copy in status.copies:  # of earlier daemons' streams
        if (copy.path, copy.url) not in told and (copy.state != "complete" or detailed):
            lines += _wrapped(f"{copy.name}: {_copy(copy)}", width)
    beyond = len(everything) - len(hidden) - len(shown)
    if beyond:
        lines += _wrapped(f"and {beyond} more; give a stream's name to see it", width)
    if hidden:
        lines += _wrapped(f"not shown: {len(hidden)} that ended earlier (omewd status --all)", width)
    if status.streams_not_shown:
        lines += _wrapped(f"and {status.streams_not_shown} more; give a stream's name to see it", width)
    return lines


def _one_stream(stream: StreamStatus, width: int, rates: Mapping[int, Rate]) -> list[Line]:
    lines = _table([stream], width, rates)
    notes = [f"{stream.name}{note}" for note in _notes(stream, detailed=False, alone=True)]
    if not stream.error:
        through = f"{stream.backend}, {stream.disk.io}" if stream.disk.io else stream.backend
        notes.append(f"{stream.path} ({through}, {stream.ended_by or 'open'})")
        if stream.backend_reason:
            notes.append(f"not the first choice of backend: {stream.backend_reason}")
    lines += [line for note in notes for line in _wrapped(note, width)]
    recent = not stream.settled and stream.recent_waits
    if waits := recent or stream.waits:
        lines += [Line(""), Line(f"where frames waited {'in the last seconds' if recent else 'on their way'}:")]
        slowest = slowest_stage(waits)
        titles, *rows = _aligned(waits_rows(waits), left=1)
        lines.append(Line(titles, "bold"))
        lines += [Line(row, "yellow" if stage == slowest else "") for stage, row in zip(waits, rows, strict=True)]
    return lines


def _daemon(status: DaemonStatus) -> str:
    memory = status.memory
    used = memory.ring_bytes + memory.writer_bytes
    writers = [writer for writer in status.writers if not writer.aside]
    ready = sum(writer.ready for writer in writers)
    return (
        f"omewd {status.version}, process {status.pid}, up {long_duration(status.uptime_s)}; "
        f"{ready} of {len(writers)} writers ready; "
        f"memory {used / 2**20:.0f} of {memory.budget_bytes / 2**20:.0f} MiB"
        + ("; stopping" if status.stopping else "")
    )


def _notes(stream: StreamStatus, *, detailed: bool, alone: bool = False) -> list[str]:
    """Notes about a stream, to be put after its name. ``alone``: no other stream is shown."""
    notes = []
    if stream.error:
        notes.append(f": {with_options(stream.error.message, {})}")
        if stream.kept_in_ring:
            notes.append(" has frames in its ring: omewd resume-stream writes them, stop-stream discards them")
    elif stream.paused:
        why = f"{stream.paused.message.rstrip('.')}. {stream.paused.remedy}"
        notes.append(f" waits: {with_options(why, {})}")
    if stream.copy is not None and (alone or detailed or stream.copy.error):
        notes.append(f": {_copy(stream.copy, stream.frames)}")
    if stream.settled:
        return notes
    notes += [f": {text}" for text in map(_silence, stream.sources) if text]
    notes += _disk(stream.disk, "" if stream.compression is None else "up to ", alone=alone)
    if detailed and (stage := slowest_stage(stream.recent_waits)):
        notes.append(f": frames wait longest in {stage}, {duration(stream.recent_waits[stage].p50_ns)}")
    return notes


def _silence(source: SourceStatus) -> str:
    """That a camera sends nothing; "" if it does."""
    if not source.is_silent:
        return ""
    return f"no frame for {source.silent_s:.1f} s" + (f" from {source.name}" if source.name else "")


def _copy(copy: CopyStatus, frames: FramesStatus | None = None) -> str:
    """How far a copy is, what is evicted, and why it does not go on."""
    gone = f"; {volume(copy.evicted_bytes)} are evicted" if copy.evicted_bytes else ""
    if copy.state == "complete":
        return f"copied to {copy.url}{gone}{still_missing(copy.missing)}"
    if copy.error is not None and copy.state == "failed":
        return with_options(f"{copy.error.message.rstrip('.')}. {copy.error.remedy}", {})
    told = f"{frames.copied} of {frames.received} frames are in {copy.url}" if frames else f"being copied to {copy.url}"
    told = f"{told}{gone}"
    if copy.error is None:
        return told
    return f"{told}; the copy waits, and is tried again: {with_options(copy.error.message, {})}"


def _disk(disk: DiskStatus, up_to: str, *, alone: bool) -> list[str]:
    """When the disk will be full, and whether the rest of the acquisition fits."""
    if disk.free_bytes is None:
        return []
    lasts_s, needs_bytes = disk.lasts_s, disk.needs_bytes or 0
    soon = lasts_s is not None and lasts_s < _SOON_S
    is_short = needs_bytes > disk.free_bytes
    if not (alone or is_short or (soon and disk.needs_bytes is None)):
        return []
    told = [f"{volume(disk.free_bytes)} free"]
    if lasts_s is not None:
        told.append(f"full in {long_duration(lasts_s)} at this rate")
    if needs_bytes:
        told.append(f"the rest takes {up_to}{volume(needs_bytes)}")
    return [f": {', '.join(told)}"]


def _kept(ring: KeptRingStatus) -> str:
    """Describes a ring that the daemon could not take over, and what to do about it."""
    where = ", ".join(ring.rings) or "gone"
    return (
        f"{ring.name}: its ring of {ring.bytes / 2**20:.1f} MiB ({where}) is kept, because it could not be taken "
        f"over: {ring.reason.rstrip('.')}. omewd resume-stream {ring.name} tries again, "
        "stop-stream discards it with its frames"
    )


def _is_over(stream: StreamStatus) -> bool:
    """Whether a stream has ended and needs no action."""
    return bool(stream.settled and not stream.kept_in_ring)


# -- the table -------------------------------------------------------------------------------------


def _table(streams: Sequence[StreamStatus], width: int, rates: Mapping[int, Rate]) -> list[Line]:
    """A line for each stream and each of its sources, or several lines for each if one is too narrow."""
    rows = []
    for stream in streams:
        cells = _cells(stream, rates.get(stream.id))
        rows.append((cells, _STYLES.get(cells["state"], "")))
        if len(stream.sources) > 1:
            rows += [(_source_cells(source, stream.durability), "") for source in stream.sources]
    titles = {title: title for title in rows[0][0]}
    columns = _columns([titles, *(cells for cells, _ in rows)], width)
    if columns is None:
        return [line for cells, style in rows for line in _stacked(cells, style, width)]
    return [_line(titles, "bold", columns), *(_line(cells, style, columns) for cells, style in rows)]


def _cells(stream: StreamStatus, recent: Rate | None) -> dict[str, str]:
    average = stream.throughput.frames_per_s, stream.throughput.bytes_per_s
    frames_per_s, bytes_per_s = recent if recent and not stream.settled else average
    state = "PAUSED" if stream.paused and not stream.settled else stream.state
    return {
        "stream": stream.name,
        "state": state,
        **_counts(stream, stream.durability),
        "rate": byte_rate(bytes_per_s),
        "fps": frame_rate(frames_per_s).removesuffix(" fps"),
    }


def _source_cells(source: SourceStatus, durability: str) -> dict[str, str]:
    """The cells of a source, which is shown below its stream."""
    state = "ended" if source.ended_by else "connected" if source.producer else "no camera"
    return {"stream": f"{_GAP}{source.name}", "state": state, **_counts(source, durability), "rate": "", "fps": ""}


def _counts(of: StreamStatus | SourceStatus, durability: str) -> dict[str, str]:
    """The figures of a stream or a source. Without fsync, nothing is known to be durable."""
    frames, ring = of.frames, of.ring
    declared = f"/{frames.declared}" if frames.declared is not None else ""
    return {
        "received": f"{frames.received}{declared}",
        "written": str(frames.written),
        "gaps": str(frames.gaps),
        "in flight": str(frames.in_flight),
        "durable": str(frames.durable) if durability == "fsync" else "–",
        "lag": str(max(frames.received - frames.durable, 0)) if durability == "fsync" else "–",
        "ring": f"{ring.used}/{ring.slots}",
    }


def _columns(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int] | None:
    """The columns that fit, with their widths; None if not even the smallest set fits."""
    needed = {title: max(text_width(row[title]) for row in rows) for title in rows[0]}
    without = [_OPTIONAL[:gone] for gone in range(len(_OPTIONAL) + 1)]
    choices = [*product((_LONG_NAME, _SHORT_NAME), without), (_SHORT_NAME, (*_OPTIONAL, _LAST_OPTIONAL))]
    for least_name, gone in choices:
        columns = {title: size for title, size in needed.items() if title not in gone}
        room = width - sum(columns.values()) + columns["stream"] - len(_GAP) * (len(columns) - 1)
        if room >= min(columns["stream"], least_name):
            columns["stream"] = min(columns["stream"], room)
            return columns
    return None


def _line(cells: Mapping[str, str], style: str, columns: Mapping[str, int]) -> Line:
    parts = [
        padded(shortened(cells[title], size) if title == "stream" else cells[title], size, left=title in _LEFT)
        for title, size in columns.items()
    ]
    return Line(_GAP.join(parts).rstrip(), style)


def _stacked(cells: Mapping[str, str], style: str, width: int) -> list[Line]:
    """The name, as much of it as fits, then the figures with their titles."""
    first = [cells["state"], cells["received"]]
    room = width - sum(len(_GAP) + text_width(cell) for cell in first)
    lines = [Line(_GAP.join([shortened(cells["stream"], max(room, _SHORT_NAME)), *first]), style)]
    if room < _SHORT_NAME:
        lines = [Line(shortened(cells["stream"], width), style), *_flowing(first, width)]
    figures = [f"{title} {cell}" for title, cell in cells.items() if title not in ("stream", "state", "received")]
    return lines + _flowing([figure for figure in figures if not figure.endswith(" ")], width)


def _flowing(items: Sequence[str], width: int) -> list[Line]:
    """Put items into as many indented lines as they need, without breaking an item."""
    texts = [f"{_GAP}{items[0]}"]
    for item in items[1:]:
        if text_width(texts[-1]) + len(_GAP) + text_width(item) <= width:
            texts[-1] += f"{_GAP}{item}"
        else:
            texts.append(f"{_GAP}{item}")
    return [Line(text) for text in texts]


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as text: the first ``left`` columns are aligned left, the others right."""
    sizes = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    texts = []
    for row in rows:
        cells = enumerate(zip(row, sizes, strict=True))
        texts.append(_GAP.join(padded(cell, size, left=n < left) for n, (cell, size) in cells).rstrip())
    return texts


def _wrapped(text: str, width: int) -> list[Line]:
    return [Line(line) for line in textwrap.wrap(text, width, subsequent_indent=_GAP) or [""]]
