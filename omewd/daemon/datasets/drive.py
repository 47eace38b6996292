"""The drive that a stream's dataset is on: what is free, and whether an acquisition fits. Pure: writers look at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.model.plan.size import raw_bytes
from omewd.model.spec.spec import StreamSpec

if TYPE_CHECKING:
    from omewd.daemon.streams.stream import Stream


@dataclass
class Drive:
    """A stream's drive. Fields are None until a writer has reported them, or if the filesystem does not tell.

    ``whole_bytes``: what all declared pixels take there without compression; None if the stream is unbounded.
    ``number``: its device number. ``free_bytes``: for ordinary users. ``io``: how bytes are written. ``paused``: why no
    new jobs are given out, until a waiting one succeeds. ``warning``: why the acquisition may not fit, as it was when
    the stream was opened.
    """

    whole_bytes: int | None
    number: int | None = None
    free_bytes: int | None = None
    io: str | None = None
    paused: OmewdError | None = None
    warning: OmewdError | None = None

    @classmethod
    def of(cls, spec: StreamSpec) -> Drive:
        return cls(raw_bytes(spec))

    def report(self, number: int, free_bytes: int | None, io: str | None = None) -> None:
        """Note what a writer has found."""
        self.number, self.free_bytes, self.io = number, free_bytes, io or self.io

    def warn(self, warning: OmewdError | None) -> None:
        """Note why the acquisition may not fit."""
        self.warning = warning

    def pause(self, error: OmewdError) -> None:
        """Give out no new jobs, because the disk is full."""
        self.paused = error

    def go_on(self) -> None:
        """Give out jobs again, because there is space."""
        self.paused = None


@dataclass(frozen=True)
class Demand:
    """Bytes of pixels that are still to be written. ``least``: surely at the same time, if all declared frames arrive.

    ``most``: if they can't be compressed; None if nobody has said how many frames there will be.
    """

    least: int = 0
    most: int | None = 0

    @classmethod
    def of(cls, stream: Stream) -> Demand:
        """What is left of a stream. Blocks that are allocated ahead count, too: up to 256 MiB for each open shard."""
        if stream.settled:
            return cls()
        whole, totals = stream.drive.whole_bytes, [source.plan.frames_total for source in stream.sources]
        if whole is None or None in totals:
            return cls(0, None)
        declared = sum(filter(None, totals))
        comes = stream.state in (State.STARTING, State.ACTIVE)
        left = declared - stream.written - stream.gaps if comes else stream.in_flight
        most = whole * left // max(declared, 1)
        return cls(0 if stream.spec.compression or stream.spec.copy_evict else most, most)

    @classmethod
    def together(cls, demands: Iterable[Demand]) -> Demand:
        each = list(demands)
        bounded = [demand.most for demand in each if demand.most is not None]
        return cls(sum(demand.least for demand in each), sum(bounded) if len(bounded) == len(each) else None)


def check_space(stream: Stream, others: Demand) -> OmewdError | None:
    """Why a stream's acquisition may not fit on its drive; None if it fits, or if that can't be known.

    ``others``: of the other open streams on that drive. Raises OmewdError ``no_disk_space`` if it surely can't fit,
    unless the stream is to be opened all the same.
    """
    own, free_bytes, spec = Demand.of(stream), stream.drive.free_bytes, stream.spec
    if free_bytes is None or own.most is None:
        return None
    surely = own.least + others.least > free_bytes
    if not surely and own.most + (others.most or others.least) <= free_bytes:
        return None
    takes = f"takes up to {_size(own.most)}, before compression," if spec.compression else f"takes {_size(own.most)}"
    taken = others.least if surely else others.most or others.least
    beside = f", and other open streams are still to write {_size(taken)} there" if taken else ""
    message = f"the acquisition {takes} on disk, but {_size(free_bytes)} are free for {stream.dataset.path}{beside}"
    old = "; the dataset that this one replaces is only removed at its end" if spec.overwrite else ""
    then = "fails" if spec.on_disk_full == "fail" else "waits for space"
    if spec.copy_evict:
        remedy = f"Files go once they are copied; where that is slower than the camera, the stream {then}{old}"
        return OmewdError("no_disk_space", message, remedy)
    if surely and spec.on_disk_full != "wait":
        remedy = "Free space, declare fewer frames, or pass `on_disk_full='wait'` to open it all the same"
        raise OmewdError("no_disk_space", message, f"{remedy}{old}")
    return OmewdError("no_disk_space", message, f"Free space: the stream {then} when the disk is full{old}")


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 1e9:.2f} GB" if count_bytes >= 10**9 else f"{count_bytes / 1e6:.2f} MB"
