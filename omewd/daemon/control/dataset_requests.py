"""What clients ask about a stream's dataset: to keep their metadata in it."""

from __future__ import annotations

from collections.abc import Mapping

from omewd.daemon.control.server import Handler, Peer
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.streams.streams import Streams
from omewd.protocol.messages import Message


class DatasetRequests:
    def __init__(self, streams: Streams, datasets: Datasets) -> None:
        self._streams, self._datasets = streams, datasets

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {"set_metadata": self._set_metadata}

    def _set_metadata(self, peer: Peer, message: Message) -> None:
        dataset = self._streams.named(message.get("name")).dataset
        value = message.get("attachment", b"")
        where = message.get("position"), message.get("well")
        self._datasets.put_user_metadata(peer, dataset, message.get("namespace"), value, *where)
