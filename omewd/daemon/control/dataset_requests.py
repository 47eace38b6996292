"""Requests about a stream's dataset: storing users' metadata in it, and waiting for its copy."""

from __future__ import annotations

from collections.abc import Mapping

from omewd.daemon.control.server import Handler, Peer
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.messages import Message


class DatasetRequests:
    def __init__(self, streams: Streams, datasets: Datasets) -> None:
        self._streams, self._datasets = streams, datasets

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {"set_metadata": self._set_metadata, "wait_copy": self._wait_copy}

    def _set_metadata(self, peer: Peer, message: Message) -> None:
        dataset = self._streams.named(message.get("name")).dataset
        value = message.get("attachment", b"")
        where = message.get("position"), message.get("well")
        self._datasets.put_user_metadata(peer, dataset, message.get("namespace"), value, *where)

    def _wait_copy(self, peer: Peer, message: Message) -> None:
        """Reply once the copy of a stream's dataset is complete or has failed. It may be an earlier daemon's."""
        name, copies = message.get("name"), self._datasets.copies
        stream = self._streams.open_named(name) or self._streams.ended.get(str(name))
        copy = stream.dataset.copy if stream is not None else copies.named(name)
        if copy is None:
            raise OmewdError("no_copy", f"the dataset of stream {str(name)[:80]!r} is not copied to anywhere")
        copies.when_over(peer, copy)
