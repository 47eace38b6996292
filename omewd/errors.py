"""Every error that omewd raises or sends. :mod:`omewd.error_codes` lists the codes.

Scripts and the control socket rely on the codes. The text is for people: what happened, the numbers, the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from omewd.error_codes import CODES, EXIT_ERROR

# Consecutive frames: (first frame index, count).
Run = tuple[int, int]

_RUNS_IN_TEXT = 10


class OmewdError(Exception):
    """An error with a stable ``code``. ``str(error)`` is one line: what happened, and the remedy.

    Without a ``remedy``, it has the usual one for its code.
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        if remedy is None:
            remedy = CODES[code].remedy if code in CODES else ""
        super().__init__(code, message, remedy)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message

    @property
    def exit_status(self) -> int:
        return CODES[self.code].exit_status if self.code in CODES else EXIT_ERROR

    def with_text(self, message: str, remedy: str) -> OmewdError:
        """The same error with another message and remedy."""
        return OmewdError.from_dict({**self.to_dict(), "message": message, "remedy": remedy})

    def without_traceback(self) -> OmewdError:
        """The same error, to be kept: the frames of a traceback hold all that they were about."""
        return OmewdError.from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON values: ``code``, ``message``, ``remedy``, and the fields of subclasses."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> OmewdError:
        """Read what :meth:`to_dict` returned, even of a newer omewd; returns an error of the class for its code."""
        code = str(fields.get("code", "error"))
        text = str(fields.get("message", "unknown error")), str(fields.get("remedy", ""))
        if code == "stream_failed":
            return StreamFailedError(code, *text, cause=str(fields.get("cause", "")), loss=Loss.from_dict(fields))
        return _BY_CODE.get(code, OmewdError)(code, *text)


class RingFullError(OmewdError):
    """The ring has no free slot, and the policy is ``fail`` or the call's time-out has passed."""


class StreamStoppedError(OmewdError):
    """The stream takes no more frames: it was stopped, or it has all the declared frames."""


@dataclass(frozen=True)
class Loss:
    """The loss of a failed stream: of its ``received`` frames, ``frames`` are not in the dataset.

    ``by_source``: each source's name ("" if it is the only one) and its first runs of lost frames.
    """

    received: int
    frames: int
    by_source: tuple[tuple[str, tuple[Run, ...]], ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all sources, one source after the other."""
        return tuple(run for _, runs in self.by_source for run in runs)

    def shortened(self, most_runs: int) -> Loss:
        """The same loss with at most ``most_runs`` runs, and without sources that have none left."""
        kept, room = [], most_runs
        for name, runs in self.by_source:
            if runs[:room]:
                kept.append((name, runs[:room]))
                room -= len(kept[-1][1])
        return Loss(self.received, self.frames, tuple(kept))

    def __str__(self) -> str:
        if not self.frames:
            return f"all {self.received} received frames are written"
        told = [text for name, runs in self.by_source if (text := _runs_in_text(name, runs))]
        counted = sum(count for _, count in self.runs)
        if counted < self.frames and not any(text.endswith("…") for text in told):
            told.append("…")
        return f"{self.frames} of {self.received} received frames are missing: {'; '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """The loss as JSON: ``received``, ``lost_frames``, ``lost``, and ``lost_by_source`` if sources have names."""
        fields: dict[str, Any] = {"received": self.received, "lost_frames": self.frames, "lost": list(self.runs)}
        if any(name for name, _ in self.by_source):
            fields["lost_by_source"] = dict(self.by_source)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read what :meth:`to_dict` returned; None if it is missing or can't be read."""
        try:
            sources = fields.get("lost_by_source", {"": fields["lost"]})
            by_source = tuple((str(name), tuple((int(a), int(b)) for a, b in runs)) for name, runs in sources.items())
            return cls(int(fields["received"]), int(fields["lost_frames"]), by_source)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None


def _runs_in_text(name: str, runs: tuple[Run, ...]) -> str:
    texts = [f"{first}-{first + n - 1}" if n > 1 else str(first) for first, n in runs[:_RUNS_IN_TEXT]]
    if not texts:
        return ""
    more = ", …" if len(runs) > _RUNS_IN_TEXT else ""
    return f"{name}: {', '.join(texts)}{more}" if name else f"{', '.join(texts)}{more}"


class StreamFailedError(OmewdError):
    """The stream has failed. ``cause``: the code of what went wrong. ``loss``: None if it is not known (yet)."""

    def __init__(
        self, code: str, message: str, remedy: str | None = None, *, cause: str = "", loss: Loss | None = None
    ) -> None:
        super().__init__(code, message, remedy)
        self.cause = cause
        self.loss = loss

    @classmethod
    def of(cls, reason: OmewdError, loss: Loss | None) -> StreamFailedError:
        """The error of a stream that has failed for a reason, with a loss."""
        message = reason.message if loss is None else f"{reason.message.rstrip('.')}; {loss}"
        return cls("stream_failed", message, reason.remedy, cause=reason.code, loss=loss)

    @property
    def lost(self) -> tuple[Run, ...]:
        """The runs of missing frames, (first frame index, count), one source after the other."""
        return self.loss.runs if self.loss else ()

    @property
    def lost_by_source(self) -> dict[str, tuple[Run, ...]]:
        """The same runs by the sources' names; a stream's only source is ""."""
        return dict(self.loss.by_source) if self.loss else {}

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON values, with ``cause`` and the fields of :meth:`Loss.to_dict`."""
        return {**super().to_dict(), "cause": self.cause, **(self.loss.to_dict() if self.loss else {})}


_BY_CODE: dict[str, type[OmewdError]] = {
    "ring_full": RingFullError,
    "stream_stopped": StreamStoppedError,
    "too_many_frames": StreamStoppedError,
}


def ring_full(message: str, remedy: str | None = None) -> RingFullError:
    return RingFullError("ring_full", message, remedy)


def stream_stopped(message: str, remedy: str | None = None) -> StreamStoppedError:
    return StreamStoppedError("stream_stopped", message, remedy)
