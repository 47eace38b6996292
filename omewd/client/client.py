"""Client: what a program or a command asks of the daemon."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omewd.client.connection import Connection
from omewd.errors import OmewdError
from omewd.model.jsonable import to_json, without_numpy
from omewd.model.spec.outline import require_small, split
from omewd.protocol.messages import MAX_MESSAGE_BYTES, decode, encode

if TYPE_CHECKING:  # what takes time to import is imported where it is used
    from omewd.model.spec.spec import StreamSpec
    from omewd.protocol.status import DaemonStatus, StreamStatus

# What a socket can wait for; who asks for more waits for ever.
_LONGEST_S = 1e6


class Client:
    """Talks to the daemon at ``socket`` (else $OMEWD_SOCKET, else the default of ``omewd serve``).

    Every call uses a connection of its own, so a client may be kept over a restart of the daemon.
    All calls raise OmewdError with a code and a remedy.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._path = socket

    def _request(self, op: str, **fields: Any) -> dict[str, Any]:
        connection = Connection(self._path)
        try:
            return connection.request(op, **fields)[0]
        except TimeoutError as error:
            raise OmewdError("unreachable", f"the daemon at {connection.path} does not answer") from error
        finally:
            connection.close()

    def start_stream(self, spec: StreamSpec | Mapping[str, Any]) -> dict[str, Any]:
        """Open a stream: its dataset and ring are there when this returns. Returns the stream's status.

        A mapping has the fields of a :class:`omewd.StreamSpec`. It may leave out ``name``: the daemon takes the first
        free of stream1, stream2, ….
        """
        fields = decode(encode(dict(spec) if isinstance(spec, Mapping) else spec.model_dump(mode="json")))
        outline, details = split(fields)
        require_small(outline)
        return self._request("start_stream", spec=outline, attachment=details, timeout=None)

    def stop_stream(self, name: str) -> dict[str, Any]:
        """Take no more frames; write and finalize what has arrived. Returns at once; see :meth:`wait`.

        Of a stream that has FAILED, let go of the frames that it still has in its ring.
        """
        return self._request("stop_stream", name=name)

    def resume_stream(self, name: str) -> dict[str, Any]:
        """Try again to write what a FAILED stream has in its ring, once its cause is mended; see :meth:`wait`."""
        return self._request("resume_stream", name=name)

    def status(self, name: str | None = None) -> dict[str, Any]:
        """The status of the daemon with all its streams, or of one stream, as JSON has it.

        Its fields are those of :class:`omewd.DaemonStatus` and :class:`omewd.StreamStatus`.
        """
        return self._request("status", **({} if name is None else {"name": name}))

    def daemon_status(self) -> DaemonStatus:
        """The status of the daemon with all its streams; raises OmewdError ``other_version``, too."""
        from omewd.protocol.status import DaemonStatus, read_status

        return read_status(DaemonStatus, self.status())

    def stream_status(self, name: str) -> StreamStatus:
        """The status of one stream; raises OmewdError ``other_version``, too."""
        from omewd.protocol.status import StreamStatus, read_status

        return read_status(StreamStatus, self.status(name))

    def set_metadata(
        self,
        name: str,
        namespace: str,
        value: Any,
        *,
        position: int | str | None = None,
        well: str | None = None,
    ) -> None:
        """Put a value under ``namespace`` into the attributes of a stream's dataset, while it is open or afterwards.

        It is in the attributes of the root group (its zarr.json), or of those of a ``position`` (its name, or number
        from 0) or a ``well`` ("B/3" or "B3"; with a position, the number is that within the well), on disk when this
        returns; one that was given under that namespace before is replaced. ``value`` is JSON-able, numpy's numbers
        and arrays too, up to 4 MiB.

        Namespace "ome.omero" sets how channels are shown, of all images or of one position: ``{"channels": [{"label",
        "color", "active", "window", "inverted", "family", "coefficient"}, …], "rdefs": {…}}``, all of it optional;
        channels are a list, or a mapping by number or label, and are merged one by one.

        Raises OmewdError ``bad_metadata``.
        """
        text = to_json(value)
        if len(text) > MAX_MESSAGE_BYTES:
            raise OmewdError(
                "bad_metadata",
                f"metadata of {len(text)} bytes is over the limit of {MAX_MESSAGE_BYTES}",
                "Keep less of it, or put it into a file beside the dataset",
            )
        where = {"position": without_numpy(position), "well": well}
        self._request("set_metadata", name=name, namespace=namespace, **where, attachment=text, timeout=None)

    def wait(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a stream is DONE and return its last status.

        ``timeout`` in seconds. Raises StreamFailedError if it FAILED, OmewdError ``timeout``.
        """
        seconds = _seconds(timeout)
        started = time.monotonic()
        connection = Connection(self._path)
        try:
            return connection.request("wait", name=name, timeout=seconds)[0]
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise OmewdError("timeout", f"stream {name!r} was not done after {waited:.1f} s") from error
        finally:
            connection.close()


def _seconds(timeout: object) -> float | None:
    """A time-out that a socket takes; raises OmewdError ``bad_timeout``."""
    if timeout is None:
        return None
    try:
        value = float(timeout)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(timeout, str | bool) or math.isnan(value):
        raise OmewdError(
            "bad_timeout",
            f"a timeout is a number of seconds, not {timeout!r:.80}",
            "Pass a number, such as `timeout=5.0`, or None to wait for ever",
        )
    return None if value > _LONGEST_S else max(value, 0.001)
