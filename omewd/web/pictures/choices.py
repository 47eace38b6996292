"""What of a stream may be looked at: which positions, channels and resolutions there are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omewd.model.plan.elements import element, frames_back
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

# More of them have no names, so that an answer stays small.
_NAMED = 1000


@dataclass(frozen=True)
class Choices:
    """Those of one source. ``position``, ``channel``: the names of these dimensions, None if there is no such one.

    ``channels``, ``positions``: their names. They are empty if each is a source of its own, which is chosen instead.
    ``most_channel``: the highest number of a channel. The planes of a colour frame are not chosen.
    """

    plan: Plan
    position: str | None
    channel: str | None
    positions: tuple[str, ...]
    channels: tuple[str, ...]
    most_channel: int
    levels: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, spec: StreamSpec, source: int) -> Choices:
        dims = {dim.type: dim for dim in spec.dimensions[:-2]}
        position, channel = dims.get("position"), dims.get("channel") if spec.samples == 1 else None
        own = spec.source_dimension
        count = 1 if channel is None else channel.count
        return cls(
            plan=Plan.of(spec, source=source),
            position=None if position is None else position.name,
            channel=None if channel is None else channel.name,
            positions=tuple(each.name for each in spec.positions[:_NAMED] if position and position.name != own),
            channels=channel.labels[:_NAMED] if channel and channel.count and channel.name != own else (),
            most_channel=(1 << 31) if count is None else count - 1,
            levels=tuple(level.frame_shape for level in levels_of(spec)),
        )

    def newest(self, frame: int, image: int | None, channel: int | None) -> Iterator[int]:
        """The frame indexes from ``frame`` on downwards that are of an image and a channel (None: of any)."""
        wanted = {self.position: image, self.channel: channel}
        fixed = {name: element for name, element in wanted.items() if name is not None and element is not None}
        return frames_back(self.plan, frame, fixed)

    def channel_of(self, frame: int) -> int | None:
        """The channel of a frame, None if it has none."""
        return None if self.channel is None else element(self.plan, frame, self.channel)

    def to_json(self) -> dict[str, Any]:
        return {"positions": self.positions, "channels": self.channels, "levels": self.levels}
