"""Marks: a small number for each frame index, for any number of indexes, in bounded memory.

Frame indexes are grouped in pages. Pages with the same mark throughout take no memory of their own, however many follow
each other. A few other pages are open, and the rest are compressed. So a billion frames that all arrived take
kilobytes, and a billion marks without any pattern take some hundred megabytes.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from omewd.dataset.ledger.runs import MOST, Runs

PAGE = 1 << 16
# 16 MiB of open pages: units that complete at the same time span several. Many sources share them.
_OPEN_PAGES, _LEAST_OPEN_PAGES = 256, 8
# Shorter runs are set together, which is faster for up to a hundred frames.
_SHORT_RUN = 64
_AT_ONCE = 1 << 20

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Indexes = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class _Intervals:
    """A number for each place, stored as runs; 0 at first."""

    def __init__(self) -> None:
        self.starts, self.numbers = [0], [0]

    def put(self, start: int, stop: int, number: int) -> None:
        first, end = bisect_left(self.starts, start), bisect_right(self.starts, stop)
        after = self.numbers[end - 1]
        before = self.numbers[first - 1] if first else None
        new = ([(start, number)] if before != number else []) + ([(stop, after)] if after != number else [])
        self.starts[first:end] = [place for place, _ in new]
        self.numbers[first:end] = [kept for _, kept in new]

    def at(self, place: int) -> int:
        return self.numbers[bisect_right(self.starts, place) - 1]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The runs as (start, stop, number), in order."""
        while start < stop:
            after = bisect_right(self.starts, start)
            end = min(self.starts[after], stop) if after < len(self.starts) else stop
            yield start, end, self.numbers[after - 1]
            start = end


class Marks:
    """A number from 0 to 255 for each frame index below 2**62; 0 where none was set."""

    def __init__(self, open_pages: int = _OPEN_PAGES) -> None:
        self._open_pages = open_pages
        self._uniform = _Intervals()  # by page, except those in _packed and _open
        self._packed: dict[int, bytes] = {}
        self._open: dict[int, Bytes] = {}
        self._changed: set[int] = set()

    @classmethod
    def of_sources(cls, sources: int) -> list[Self]:
        """The marks of each source, which together take no more memory than those of one."""
        return [cls(max(_OPEN_PAGES // sources, _LEAST_OPEN_PAGES)) for _ in range(sources)]

    # -- setting ----------------------------------------------------------------------------------

    def put(self, first: int, count: int, step: int, mark: int) -> None:
        """Set the mark of ``count`` frame indexes from ``first`` on, ``step`` apart."""
        if count == 1:
            step = 1
        stop = first + (count - 1) * step + 1
        if step == 1 and count >= PAGE:
            whole = -(-first // PAGE), stop // PAGE
            if whole[0] < whole[1]:
                self._put_pages(*whole, mark)
                self._put_in_pages(first, whole[0] * PAGE, 1, mark)
                first = whole[1] * PAGE
        self._put_in_pages(first, stop, step, mark)

    def _put_in_pages(self, first: int, stop: int, step: int, mark: int) -> None:
        while first < stop:
            number = first // PAGE
            start = number * PAGE
            page = self._page(number)
            page[first - start : stop - start : step] = mark
            past = first + -(-(start + PAGE - first) // step) * step
            if past - step == start + PAGE - 1 < stop:
                self._close_if_uniform(number, page)
            first = past

    def _put_pages(self, start: int, stop: int, mark: int) -> None:
        for pages in (self._packed, self._open):
            for number in [n for n in (pages if len(pages) < stop - start else range(start, stop)) if n in pages]:
                if start <= number < stop:
                    del pages[number]
                    self._changed.discard(number)
        self._uniform.put(start, stop, mark)

    def put_runs(self, runs: Runs, marks: Bytes) -> None:
        """Set the marks of several runs, in order, each to its own mark."""
        short = runs["count"] <= _SHORT_RUN
        edges = np.flatnonzero(np.diff(short)) + 1
        for some in (slice(a, b) for a, b in zip([0, *edges], [*edges, len(runs)], strict=True)):
            if len(runs[some]) > 1 and short[some.start]:
                step = _AT_ONCE // _SHORT_RUN
                for start in range(some.start, some.stop, step):
                    part = slice(start, min(start + step, some.stop))
                    self._put_short(runs[part], marks[part])
                continue
            rows = zip(*(runs[name][some].tolist() for name in ("first", "count", "step")), strict=True)
            for (first, count, step), mark in zip(rows, marks[some].tolist(), strict=True):
                if count:
                    self.put(first, count, step, mark)

    def _put_short(self, runs: Runs, marks: Bytes) -> None:
        counts = runs["count"]
        frames: Indexes = runs["first"]
        if counts.min() != 1 or counts.max() != 1:
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            frames = np.repeat(frames, counts) + inside * np.repeat(runs["step"].astype(np.int64), counts)
            marks = np.repeat(marks, counts)
        for number, of_page in _by_page(frames):
            # The last run counts for an index that occurs twice.
            page, places = self._page(number), frames[of_page] % PAGE
            page[places] = marks[of_page]
            if places.max() == PAGE - 1:
                self._close_if_uniform(number, page)

    def _page(self, number: int, *, change: bool = True) -> Bytes:
        page = self._open.get(number)
        if page is None:
            if len(self._open) >= self._open_pages:
                self._close(next(iter(self._open)))
            packed = self._packed.get(number)
            page = np.empty(PAGE, np.uint8)
            page[:] = self._uniform.at(number) if packed is None else np.frombuffer(zlib.decompress(packed), np.uint8)
            self._open[number] = page
        if change:
            self._changed.add(number)
        return page

    def _close_if_uniform(self, number: int, page: Bytes) -> None:
        """Close a page whose last mark was set: frames mostly come in order, and the page will not change any more."""
        if (page == page[0]).all():
            self._close(number)

    def _close(self, number: int) -> None:
        page = self._open.pop(number)
        if number not in self._changed:
            return
        self._changed.discard(number)
        if (page == page[0]).all():
            self._packed.pop(number, None)
            self._uniform.put(number, number + 1, int(page[0]))
        else:
            self._packed[number] = zlib.compress(page.data, 1)

    # -- reading ----------------------------------------------------------------------------------

    def at(self, frames: Indexes) -> Bytes:
        """The mark of each frame index."""
        found = np.zeros(frames.shape, np.uint8)
        for number, of_page in _by_page(frames):
            if number in self._open or number in self._packed:
                found[of_page] = self._page(number, change=False)[frames[of_page] % PAGE]
            else:
                found[of_page] = self._uniform.at(number)
        return found

    def counts(self, stop: int) -> list[int]:
        """How many of the frame indexes below ``stop`` have each mark."""
        counts = [0] * 256
        for first, end, marks in self._parts(0, stop):
            if isinstance(marks, int):
                counts[marks] += end - first
            else:
                for mark, count in enumerate(np.bincount(marks[: end - first]).tolist()):
                    counts[mark] += count
        return counts

    def intervals(self, marks: set[int], stop: int = MOST, start: int = 0) -> Iterator[tuple[int, int]]:
        """The frame indexes in [start, stop) with one of these marks, in order, as runs (first, one past the last)."""
        first = end = start
        for piece, until in self._pieces(marks, start, stop):
            if max(piece, start) != end:
                if first < end:
                    yield first, end
                first = piece
            end = max(until, start)
        if first < end:
            yield first, end

    def _pieces(self, marks: set[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
        wanted = np.array([mark in marks for mark in range(256)])
        for first, end, found in self._parts(start, stop):
            if isinstance(found, int):
                if wanted[found]:
                    yield first, end
                continue
            flags = wanted[found[: end - first]]
            edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)) + first
            yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)

    def last(self, mark: int, stop: int) -> int | None:
        """The highest frame index below ``stop`` with a mark other than 0; None if there is none."""
        best = None
        pages = self._mixed()
        for number in reversed(pages[: bisect_left(pages, -(-stop // PAGE))]):
            places = np.flatnonzero(self._page(number, change=False)[: stop - number * PAGE] == mark)
            if places.size:
                best = number * PAGE + int(places[-1])
                break
        for _, end, found in self._parts(0 if best is None else best, stop):
            if isinstance(found, int) and found == mark:
                best = end - 1
        return best

    def _mixed(self) -> list[int]:
        """The pages without a uniform mark, in ascending order."""
        return sorted(self._packed.keys() | self._open.keys())

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int | Bytes]]:
        """Runs from the page of ``start`` on: (first, one past the last, their mark, or a page's marks), in order."""
        at, end_page, pages = start // PAGE, -(-stop // PAGE), self._mixed()
        pages = pages[bisect_left(pages, at) : bisect_left(pages, end_page)]
        for number in [*pages, end_page]:
            for first, end, mark in self._uniform.between(at, number):
                yield first * PAGE, min(end * PAGE, stop), mark
            if number < end_page:
                yield number * PAGE, min(number * PAGE + PAGE, stop), self._page(number, change=False)
            at = number + 1


def _by_page(frames: Indexes) -> Iterator[tuple[int, Any]]:
    """The frame indexes by page: (the page's number, flags of the frame indexes, or None for all)."""
    if not frames.size:
        return
    pages = frames // PAGE
    if pages.min() == pages.max():
        yield int(pages.flat[0]), ...
        return
    for number in np.unique(pages).tolist():
        yield number, pages == number
