"""The versions of all formats that outlive a process or that another process reads.

A reader accepts every minor version of its own major version. A new minor version only adds fields, which older readers
ignore and for which newer readers have a default. Any change that an older reader would misread is a new major version,
which it refuses with a clear error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")


@dataclass(frozen=True, order=True)
class Version:
    """A format's version. ``str(version)`` is "major.minor", the form used in JSON."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: object) -> Version | None:
        """Parse "major.minor"; returns None for anything else."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def packed(self) -> int:
        """The version as a 32-bit number: the major version in the lower half, the minor one in the upper."""
        return self.major | self.minor << 16

    @classmethod
    def unpack(cls, number: int) -> Version:
        return cls(number & 0xFFFF, number >> 16)

    def reads(self, other: Version) -> bool:
        """Whether a reader of this version understands the ``other`` one."""
        return self.major == other.major


# The control protocol: messages between clients and the daemon.
CONTROL = Version(1, 0)
# What ``omewd status --json`` and ``Client.status`` return.
STATUS = Version(1, 1)
# Messages between the daemon and its children, which are exec'd from the installed files. After an upgrade these may be
# newer than the daemon. Both sides must have exactly the same version.
JOBS = Version(1, 0)
# Entries of the daemon's journal.
JOURNAL = Version(1, 0)
# The layout of a ring: see :mod:`omewd.ring.layout`.
RING = Version(2, 0)
