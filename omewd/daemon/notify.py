"""Messages to systemd (sd_notify(3)). Without systemd they do nothing."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Sends to $NOTIFY_SOCKET. ``watchdog_s``: how often systemd expects a message, None if it expects none."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        wanted = os.environ.get("WATCHDOG_USEC")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(wanted) / 1e6 if wanted and mine else None

    @property
    def is_heard(self) -> bool:
        """Whether systemd, or another service manager, listens."""
        return bool(self._address)

    def send(self, **fields: str | int) -> None:
        """Send assignments such as READY=1 and STATUS=…; errors are ignored."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(text.encode(), self._address)
            except OSError:
                return
