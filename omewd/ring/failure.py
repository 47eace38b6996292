"""Why a stream has failed and what it has lost: left in the ring for the producer and the next daemon.

It is JSON of at most FAILURE_MAX_BYTES: ``code``, ``message`` and ``remedy`` of the reason, and the fields of
:meth:`omewd.errors.Loss.to_dict` once the loss is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from omewd.errors import Loss, OmewdError, StreamFailedError
from omewd.ring.layout import FAILURE_MAX_BYTES

# Before texts are cut, runs of lost frames go, down to this many: what happened is worth more.
_LEAST_RUNS = 4
_MOST_REMEDY = 400


@dataclass(frozen=True)
class Failure:
    """``loss`` None: it is not known yet."""

    reason: OmewdError
    loss: Loss | None = None

    @property
    def error(self) -> StreamFailedError:
        """As a program gets it."""
        return StreamFailedError.of(self.reason, self.loss)

    def pack(self) -> bytes:
        """As JSON that fits: with fewer runs of lost frames, then with shorter texts."""
        reason, loss = self.reason, self.loss
        text = _json(reason, loss)
        runs = len(loss.runs) if loss else 0
        while len(text) > FAILURE_MAX_BYTES and loss and runs > _LEAST_RUNS:
            runs = max(runs // 2, _LEAST_RUNS)
            loss = loss.shortened(runs)
            text = _json(reason, loss)
        kept = max(len(reason.message), len(reason.remedy))
        while len(text) > FAILURE_MAX_BYTES:
            kept = kept * 3 // 4
            short = reason.with_text(_cut(reason.message, kept), _cut(reason.remedy, min(kept, _MOST_REMEDY)))
            text = _json(short, loss)
        return text

    @classmethod
    def unpack(cls, text: bytes) -> Failure:
        """From what :meth:`pack` gave; raises ValueError if it is damaged."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("a failure is a JSON object")
        return cls(OmewdError.from_dict(fields), Loss.from_dict(fields))


def _json(reason: OmewdError, loss: Loss | None) -> bytes:
    return json.dumps({**reason.to_dict(), **(loss.to_dict() if loss else {})}, separators=(",", ":")).encode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + " …"
