"""The drive that a stream's dataset is on, as far as the daemon knows it. Pure: writers look at the disk."""

from __future__ import annotations

from dataclasses import dataclass

from omewd.errors import OmewdError


@dataclass
class Drive:
    """A stream's drive. Fields are None until a writer has reported them.

    ``free_bytes``: what is free for this user. ``io``: how bytes are written. ``paused``: why no new jobs are given
    out, until a waiting one succeeds.
    """

    free_bytes: int | None = None
    io: str | None = None
    paused: OmewdError | None = None

    def report(self, free_bytes: int, io: str) -> None:
        """Note what a writer has found after it wrote."""
        self.free_bytes, self.io = free_bytes, io

    def pause(self, error: OmewdError) -> None:
        """Give out no new jobs, because the disk is full."""
        self.paused = error

    def go_on(self) -> None:
        """Give out jobs again, because there is space."""
        self.paused = None
