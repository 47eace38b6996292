"""Copies files of one dataset, several at once, and puts on record what is confirmed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from omewd.copier.access.store import Target
from omewd.copier.engine import Engine, LocalFile, etags_are_whole
from omewd.copier.pace import Pace
from omewd.dataset.copies.evicting import Evictor
from omewd.dataset.copies.manifest import Copied, Manifest
from omewd.process.faultpoints import point

# Small files wait for answers rather than for bytes.
_FILES_AT_ONCE = 16
_MEMORY_BYTES = 256 << 20

# Called with (files, bytes) that have been confirmed since the last call.
Tell = Callable[[int, int], None]


class Batch:
    """Copies files of a dataset to a target. To be closed; an error ends the copies that are running.

    ``evictor``: gets what is on record. ``place``: where a file's path in the dataset is in the copy.
    """

    def __init__(
        self,
        dataset: Path,
        target: Target,
        manifest: Manifest,
        pace: Pace,
        tell: Tell,
        evictor: Evictor | None = None,
        place: Callable[[str], str] = str,
    ) -> None:
        self._dataset, self._manifest, self._tell = dataset, manifest, tell
        self._evictor, self._place = evictor, place
        self._stopping = Event()
        self.engine = Engine(target, pace, self._stopping, whole=etags_are_whole(manifest.copied.values()))
        self._threads = ThreadPoolExecutor(_FILES_AT_ONCE, "copier")

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._stopping.set()
        self._threads.shutdown()

    def copy(self, files: Iterable[LocalFile]) -> None:
        """Copy files, as many at once as memory allows. After an error no more are begun, and it is raised in the end.

        What ends meanwhile goes on record together, with one sync.
        """
        waiting = deque(files)
        running: dict[Future[Copied], LocalFile] = {}
        failed: BaseException | None = None
        memory = 0
        while running or (waiting and failed is None):
            while waiting and failed is None and len(running) < _FILES_AT_ONCE:
                need = waiting[0].memory_bytes
                if running and memory + need > _MEMORY_BYTES:
                    break
                file = waiting.popleft()
                memory += need
                running[self._threads.submit(self.engine.copy, self._dataset, file, self._place(file.path))] = file
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            memory -= sum(running.pop(each).memory_bytes for each in ended)
            confirmed = [each.result() for each in ended if each.exception() is None]
            failed = failed or next((each.exception() for each in ended if each.exception() is not None), None)
            self._manifest.add(confirmed)
            point("copier: on record")
            self._tell(len(confirmed), sum(each.bytes for each in confirmed))
            if self._evictor is not None:
                self._evictor.add(confirmed)
                self._evictor.step(time.monotonic())
        if failed is not None:
            raise failed
