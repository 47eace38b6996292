"""omewd: camera frames from shared memory to OME-Zarr on disk.

Only the public names live here, and each is imported when it is first used, so that
``import omewd`` stays cheap inside an acquisition program.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omewd.client.client import Client
    from omewd.copier.open_copy import open_copy
    from omewd.dataset.ledger.frames import FrameLedger, open_ledger
    from omewd.errors import OmewdError, RingFullError, StreamFailedError, StreamStoppedError
    from omewd.model.spec.dimensions import Channel, Dimension, Plate, Position, parse_dims
    from omewd.model.spec.spec import StreamSpec
    from omewd.producer.producer import Producer, connect
    from omewd.producer.slot import Slot
    from omewd.protocol.status import DaemonStatus, StreamStatus
    from omewd.protocol.watch import (
        CopyComplete,
        CopyFailed,
        CopyWaits,
        FramesCopied,
        FramesDurable,
        ShardsSealed,
        StreamDone,
        StreamFailed,
        StreamGoesOn,
        StreamPaused,
        WatchEvent,
    )
    from omewd.reader.live_store import live_store
    from omewd.reader.view import View, view

_HOMES = {
    "Channel": "omewd.model.spec.dimensions",
    "Client": "omewd.client.client",
    "DaemonStatus": "omewd.protocol.status",
    "Dimension": "omewd.model.spec.dimensions",
    "FrameLedger": "omewd.dataset.ledger.frames",
    "FramesDurable": "omewd.protocol.watch",
    "OmewdError": "omewd.errors",
    "Plate": "omewd.model.spec.dimensions",
    "Position": "omewd.model.spec.dimensions",
    "Producer": "omewd.producer.producer",
    "RingFullError": "omewd.errors",
    "ShardsSealed": "omewd.protocol.watch",
    "FramesCopied": "omewd.protocol.watch",
    "CopyWaits": "omewd.protocol.watch",
    "CopyComplete": "omewd.protocol.watch",
    "CopyFailed": "omewd.protocol.watch",
    "Slot": "omewd.producer.slot",
    "StreamDone": "omewd.protocol.watch",
    "StreamFailed": "omewd.protocol.watch",
    "StreamFailedError": "omewd.errors",
    "StreamGoesOn": "omewd.protocol.watch",
    "StreamPaused": "omewd.protocol.watch",
    "StreamSpec": "omewd.model.spec.spec",
    "StreamStatus": "omewd.protocol.status",
    "StreamStoppedError": "omewd.errors",
    "View": "omewd.reader.view",
    "WatchEvent": "omewd.protocol.watch",
    "connect": "omewd.producer.producer",
    "live_store": "omewd.reader.live_store",
    "open_copy": "omewd.copier.open_copy",
    "open_ledger": "omewd.dataset.ledger.frames",
    "parse_dims": "omewd.model.spec.dimensions",
    "view": "omewd.reader.view",
}

__version__ = "0.1.0"
__all__ = [
    "Channel",
    "Client",
    "CopyComplete",
    "CopyFailed",
    "CopyWaits",
    "DaemonStatus",
    "Dimension",
    "FrameLedger",
    "FramesCopied",
    "FramesDurable",
    "OmewdError",
    "Plate",
    "Position",
    "Producer",
    "RingFullError",
    "ShardsSealed",
    "Slot",
    "StreamDone",
    "StreamFailed",
    "StreamFailedError",
    "StreamGoesOn",
    "StreamPaused",
    "StreamSpec",
    "StreamStatus",
    "StreamStoppedError",
    "View",
    "WatchEvent",
    "__version__",
    "connect",
    "live_store",
    "open_copy",
    "open_ledger",
    "parse_dims",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'omewd' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
