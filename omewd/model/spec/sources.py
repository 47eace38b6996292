"""Which elements of the source dimension have producers here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omewd.model.spec.dimensions import Dimension
from omewd.model.spec.outline import MAX_SOURCES


def names_in(value: Any) -> Any:
    """Comma-separated names as a list; other values stay as they are."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def check_sources(dimensions: Sequence[Dimension], source_dimension: str | None, own: Sequence[str] | None) -> None:
    """Check the dimension of sources, and the names of the sources that are here; raises ValueError."""
    if source_dimension is None:
        if own is not None:
            raise ValueError(
                "own_sources: the stream has no source_dimension, so it has one source only: name the dimension whose "
                "elements are divided among daemons"
            )
        return
    dim = next((d for d in dimensions[:-2] if d.name == source_dimension), None)
    if dim is None:
        outer = ", ".join(d.name for d in dimensions[:-2]) or "none"
        raise ValueError(
            f"source_dimension: {source_dimension!r} is not one of the dimensions outside the frame ({outer})"
        )
    if dim.count is None or dim.count > MAX_SOURCES:
        raise ValueError(f"source_dimension: {dim.name!r} must have 1 to {MAX_SOURCES} elements, one for each producer")
    if (dim.chunk_size or 1) * (dim.shard_size_chunks or 1) != 1:
        raise ValueError(
            f"source_dimension: each producer has chunks of its own, so {dim.name!r} takes no chunks or shards"
        )
    if len(set(dim.labels)) < len(dim.labels):
        raise ValueError(f"source_dimension: two elements of {dim.name!r} have the same name")
    elements_of(dim.labels, own)


def elements_of(labels: Sequence[str], own: Sequence[str] | None) -> tuple[int, ...]:
    """The elements that are here, in ascending order; each is given by its name, or by its number as text.

    Raises ValueError unless there are some, each of them once.
    """
    if own is None:
        return tuple(range(len(labels)))
    by_name = {**{str(number): number for number in range(len(labels))}, **{name: n for n, name in enumerate(labels)}}
    strange = [name for name in own if name not in by_name]
    if strange:
        raise ValueError(f"own_sources: {strange[0]!r:.80} is not one of the sources: {', '.join(labels)}")
    elements = sorted({by_name[name] for name in own})
    if not own or len(elements) < len(own):
        raise ValueError("own_sources: name at least one source, and each one once")
    return tuple(elements)
