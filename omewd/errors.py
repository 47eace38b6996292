"""Every error that omewd raises or sends: its code, its exit status, its remedy.

Codes are what scripts and the control socket rely on; the text is for people and says what
happened, the numbers, and what to do.
"""

from __future__ import annotations

from typing import Any

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_START = 3
EXIT_UNREACHABLE = 4
EXIT_INCOMPLETE = 5

_EXIT_STATUS = {
    "usage": EXIT_USAGE,
    "bad_spec": EXIT_USAGE,
    "start_failed": EXIT_START,
    "already_running": EXIT_START,
    "unreachable": EXIT_UNREACHABLE,
    "no_daemon": EXIT_UNREACHABLE,
    "no_permission": EXIT_UNREACHABLE,
    "incomplete": EXIT_INCOMPLETE,
    "stream_failed": EXIT_INCOMPLETE,
}


class OmewdError(Exception):
    """An error with a stable ``code``; ``str(error)`` is one line: what happened and the remedy."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(code, message, remedy)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message

    @property
    def exit_status(self) -> int:
        return _EXIT_STATUS.get(self.code, EXIT_ERROR)

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> OmewdError:
        code = str(fields.get("code", "error"))
        kind = _BY_CODE.get(code, cls)
        return kind(code, str(fields.get("message", "unknown error")), str(fields.get("remedy", "")))


class RingFullError(OmewdError):
    """The ring has no free slot: the policy is ``fail``, or the time-out of the call has passed."""


class StreamStoppedError(OmewdError):
    """The stream takes no more frames: it was stopped, or all declared frames are there."""


class StreamFailedError(OmewdError):
    """The stream has failed; the message says why and which frames are missing."""


_BY_CODE: dict[str, type[OmewdError]] = {
    "ring_full": RingFullError,
    "stream_stopped": StreamStoppedError,
    "too_many_frames": StreamStoppedError,
    "stream_failed": StreamFailedError,
}


def ring_full(message: str, remedy: str = "") -> RingFullError:
    return RingFullError("ring_full", message, remedy)


def stream_stopped(message: str, remedy: str = "") -> StreamStoppedError:
    return StreamStoppedError("stream_stopped", message, remedy)


def stream_failed(message: str, remedy: str = "") -> StreamFailedError:
    return StreamFailedError("stream_failed", message, remedy)
