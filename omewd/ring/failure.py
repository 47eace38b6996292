"""A stream's failure, which the daemon leaves in the ring for the producer and the next daemon.

It is JSON of at most FAILURE_MAX_BYTES: the reason's ``code``, ``message`` and ``remedy``, and the fields of
:meth:`omewd.errors.Loss.to_dict` once the loss is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from omewd.errors import Loss, OmewdError, StreamFailedError
from omewd.ring.layout import FAILURE_MAX_BYTES

# Runs of lost frames are dropped down to this many before texts are cut, which matter more.
_LEAST_RUNS = 4
_MOST_REMEDY = 400


@dataclass(frozen=True)
class Failure:
    """Why a stream has failed. ``loss``: None if it is not known yet."""

    reason: OmewdError
    loss: Loss | None = None

    @property
    def error(self) -> StreamFailedError:
        """The error that programs get."""
        return StreamFailedError.of(self.reason, self.loss)

    def pack(self) -> bytes:
        """Encode it as JSON that fits, if necessary with fewer runs of lost frames, then with shorter texts."""
        reason, loss = self.reason, self.loss
        text = _json(reason, loss)
        if loss and len(text) > FAILURE_MAX_BYTES:
            loss = _shortened(reason, loss)
            text = _json(reason, loss)
        kept = max(len(reason.message), len(reason.remedy))
        while len(text) > FAILURE_MAX_BYTES:
            kept = kept * 3 // 4
            short = reason.with_text(_cut(reason.message, kept), _cut(reason.remedy, min(kept, _MOST_REMEDY)))
            text = _json(short, loss)
        return text

    @classmethod
    def unpack(cls, text: bytes) -> Failure:
        """Read what :meth:`pack` returned; raises ValueError if it is damaged."""
        try:
            fields = json.loads(text)
        except RecursionError as error:
            raise ValueError("a failure must not be nested so deep") from error
        if not isinstance(fields, dict):
            raise ValueError("a failure must be a JSON object")
        return cls(OmewdError.from_dict(fields), Loss.from_dict(fields))


def _json(reason: OmewdError, loss: Loss | None) -> bytes:
    return json.dumps({**reason.to_dict(), **(loss.to_dict() if loss else {})}, separators=(",", ":")).encode()


def _shortened(reason: OmewdError, loss: Loss) -> Loss:
    """A loss that fits beside its reason, or that leaves half of the room to the reason's texts.

    Sources' names can take all of the room, so a loss may be left without a single run.
    """
    no_texts = reason.with_text("", "")
    runs = len(loss.runs)
    loss = loss.shortened(runs)  # without the names of sources that lost nothing
    while runs and len(_json(reason, loss)) > FAILURE_MAX_BYTES:
        if runs <= _LEAST_RUNS and len(_json(no_texts, loss)) <= FAILURE_MAX_BYTES // 2:
            break
        runs = max(runs // 2, _LEAST_RUNS) if runs > _LEAST_RUNS else runs - 1
        loss = loss.shortened(runs)
    return loss


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + " …"
