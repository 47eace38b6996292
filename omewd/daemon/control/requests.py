"""What clients ask of the daemon: which operation goes to which handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from omewd.daemon.control.server import Handler, Peer
from omewd.errors import OmewdError
from omewd.protocol.messages import Message


class Group(Protocol):
    """Operations that belong together. A handler raises OmewdError for what can't be done."""

    @property
    def operations(self) -> Mapping[str, Handler]: ...


class Requests:
    """Handles one request at a time."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._handlers = {name: handler for group in groups for name, handler in group.operations.items()}

    def handle(self, peer: Peer, message: Message) -> Message | None:
        """The result; None if it comes later, or has been sent. Raises OmewdError."""
        wish = message.get("op")
        handler = self._handlers.get(wish) if isinstance(wish, str) else None
        if handler is None:
            *names, last = self._handlers
            raise OmewdError(
                "bad_message",
                f"there is no request {str(wish)[:80]!r}",
                f"Requests are {', '.join(names)} and {last}",
            )
        return handler(peer, message)
