"""When the windows of grey values in which viewers show the images are put into a dataset during its stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from omewd.model.contrast import MOST_CHANNELS, Contrast, Window
from omewd.model.spec.spec import StreamSpec

# A short stream gets them with its final metadata, without another sync.
_SHOW_NS = 1_000_000_000
# Each image costs a synced file. With more images, the end of the stream is early enough.
_MOST_IMAGES = 64


@dataclass
class ShownContrast:
    """The contrast of the frames that were written under this daemon.

    ``started_ns``: when the stream was started. ``is_shown``: the dataset has the windows already.
    """

    started_ns: int
    found: Contrast = field(default_factory=Contrast)
    is_shown: bool = False

    def take(self, spec: StreamSpec, now_ns: int) -> tuple[Window, ...] | None:
        """The windows to put into the dataset, once all channels have frames; None before, and later on."""
        is_early = now_ns < self.started_ns + _SHOW_NS
        if is_early or self.is_shown or not self.found or spec.images > _MOST_IMAGES:
            return None
        channels = next((d.count or 1 for d in spec.dimensions[:-2] if d.type == "channel"), 1)
        self.is_shown = len(self.found) >= min(channels, MOST_CHANNELS)
        return self.found.windows if self.is_shown else None

    def shows_ns(self, now_ns: int) -> int | None:
        """When :meth:`take` may have windows even if nothing happens; None if it never will."""
        time_ns = self.started_ns + _SHOW_NS
        return time_ns if self.found and not self.is_shown and time_ns > now_ns else None
