"""The client: how programs and commands control the daemon."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omewd.client.connection import Connection
from omewd.errors import OmewdError
from omewd.model.jsonable import to_json, without_numpy
from omewd.model.spec.outline import require_small, split
from omewd.protocol.messages import MAX_MESSAGE_BYTES, decode, encode

if TYPE_CHECKING:  # what takes time to import is imported where it is used
    from omewd.model.spec.spec import StreamSpec
    from omewd.protocol.status import DaemonStatus, StreamStatus
    from omewd.protocol.watch import WatchEvent

# The longest time-out of a socket; a longer one means to wait for ever.
_LONGEST_S = 1e6


class Client:
    """Controls the daemon at ``socket``. The default is $OMEWD_SOCKET, then the default of ``omewd serve``.

    Every call uses a connection of its own, so a client may be kept across a restart of the daemon.
    All calls raise OmewdError, with a code and a remedy.
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
        """Open a stream, and return its status once its dataset and its rings exist.

        A mapping has the fields of a :class:`omewd.StreamSpec`. Without ``name``, the daemon takes the first free one
        of stream1, stream2, ….
        """
        fields = decode(encode(dict(spec) if isinstance(spec, Mapping) else spec.model_dump(mode="json")))
        outline, details = split(fields)
        require_small(outline)
        return self._request("start_stream", spec=outline, attachment=details, timeout=None)

    def stop_stream(self, name: str) -> dict[str, Any]:
        """Take no more frames, and write and finalize what has arrived. Returns at once; see :meth:`wait`.

        For a FAILED stream, this discards the frames that are still in its rings.
        """
        return self._request("stop_stream", name=name)

    def resume_stream(self, name: str) -> dict[str, Any]:
        """Write the frames that a FAILED stream still has in its rings, once the cause is removed; see :meth:`wait`."""
        return self._request("resume_stream", name=name)

    def status(self, name: str | None = None) -> dict[str, Any]:
        """The status of the daemon with all its streams, or of one stream, as JSON values.

        The fields are those of :class:`omewd.DaemonStatus` and :class:`omewd.StreamStatus`.
        """
        return self._request("status", **({} if name is None else {"name": name}))

    def daemon_status(self) -> DaemonStatus:
        """The status of the daemon with all its streams. Also raises OmewdError ``other_version``."""
        from omewd.protocol.status import DaemonStatus, read_status

        return read_status(DaemonStatus, self.status())

    def stream_status(self, name: str) -> StreamStatus:
        """The status of one stream. Also raises OmewdError ``other_version``."""
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
        """Put a value under ``namespace`` into the attributes of a stream's dataset, during the stream or afterwards.

        The value goes into the zarr.json of the root group, of a ``position`` (its name, or its number from 0) or of a
        ``well`` ("B/3" or "B3"; with a position, which is then numbered within the well). It is on disk when this
        returns, and replaces an earlier value under the same namespace. ``value`` must be JSON-able, up to 4 MiB; numpy
        numbers and arrays are accepted.

        The namespace "ome.omero" sets how viewers show the channels of all images, or of one position: ``{"channels":
        [{"label", "color", "active", "window", "inverted", "family", "coefficient"}, …], "rdefs": {…}}``. Every part is
        optional. ``channels`` is a list, or a mapping by number or label; it is merged channel by channel.

        Raises OmewdError ``bad_metadata``.
        """
        text = to_json(value)
        if len(text) > MAX_MESSAGE_BYTES:
            raise OmewdError(
                "bad_metadata",
                f"metadata of {len(text)} bytes is over the limit of {MAX_MESSAGE_BYTES}",
                "Store less of it, or put it into a file beside the dataset",
            )
        where = {"position": without_numpy(position), "well": well}
        self._request("set_metadata", name=name, namespace=namespace, **where, attachment=text, timeout=None)

    def wait(self, name: str, timeout: float | None = None, *, copied: bool = False) -> dict[str, Any]:
        """Wait until a stream is DONE, for ``timeout`` seconds at most, and return its final status.

        ``copied``: wait until its copy is complete, too. For a stream that the daemon has copied since its restart,
        return the status of the copy.

        Raises StreamFailedError if the stream has FAILED, OmewdError ``timeout``; ``no_copy``, or the error of a copy
        that has failed.
        """
        seconds = _seconds(timeout)
        started = time.monotonic()
        connection = Connection(self._path)
        try:
            if not copied:
                return connection.request("wait", name=name, timeout=seconds)[0]
            return self._wait_copied(connection, name, seconds)
        except TimeoutError as error:
            waited = time.monotonic() - started
            what = "copied" if copied else "done"
            raise OmewdError("timeout", f"stream {name!r} was not {what} after {waited:.1f} s") from error
        finally:
            connection.close()

    def _wait_copied(self, connection: Connection, name: str, seconds: float | None) -> dict[str, Any]:
        started = time.monotonic()
        status: dict[str, Any] | None = None
        try:
            status = connection.request("wait", name=name, timeout=seconds)[0]
        except OmewdError as error:
            if error.code != "unknown_stream":
                raise
        left_s = None if seconds is None else max(seconds - (time.monotonic() - started), 0.001)
        copy = connection.request("wait_copy", name=name, timeout=left_s)[0]
        return copy if status is None else self.status(name)

    def watch(self, name: str, *, frames: bool = True) -> Iterator[WatchEvent]:
        """Yield what happens to a stream, as it happens, until it is DONE or has FAILED, and its copy is over.

        ``frames``: False leaves :class:`omewd.FramesDurable` and :class:`omewd.ShardsSealed` out, so that a fast camera
        makes no more work than a slow one.

        First come the events for what has happened already. An event may stand for several that came while the caller
        was busy. They are :class:`omewd.FramesDurable`, :class:`omewd.ShardsSealed`, :class:`omewd.StreamPaused`,
        :class:`omewd.StreamGoesOn`, and at the end :class:`omewd.StreamFailed` or :class:`omewd.StreamDone`. A stream
        that is copied has :class:`omewd.FramesCopied`, :class:`omewd.CopyWaits`, and at the end
        :class:`omewd.CopyComplete` or :class:`omewd.CopyFailed`, too.
        Raises OmewdError: ``unknown_stream``; ``unreachable`` if the daemon ends.
        """
        from omewd.protocol.watch import Watched, events

        connection = Connection(self._path)
        try:
            last: Watched | None = None
            while last is None or not last.is_over:
                asked: dict[str, Any] = {} if last is None else {"id": last.id, "known": last.known(frames=frames)}
                reply, _ = connection.request("watch", name=name, timeout=None, **asked)
                try:
                    now = Watched.from_json(reply)
                except ValueError as error:
                    raise OmewdError("bad_message", f"the daemon's answer can't be read: {error}") from error
                yield from events(last, now, frames=frames)
                last = now
        finally:
            connection.close()


def _seconds(timeout: object) -> float | None:
    """A time-out in seconds that a socket takes; raises OmewdError ``bad_timeout``."""
    if timeout is None:
        return None
    try:
        value = float(timeout)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(timeout, str | bool) or math.isnan(value):
        raise OmewdError(
            "bad_timeout",
            f"a time-out is a number of seconds, not {timeout!r:.80}",
            "Pass a number, such as `timeout=5.0`, or None to wait for ever",
        )
    return None if value > _LONGEST_S else max(value, 0.001)
