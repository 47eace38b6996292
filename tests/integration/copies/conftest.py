"""A finished dataset, and a server to copy it to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.copies import Lab, finished
from tests.support.s3 import Proxy, environment, s3_server


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return finished(tmp_path)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A server with a bucket, behind a proxy, for this process and the commands that it starts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with s3_server(tmp_path / "server") as (port, _), closing(Proxy(port)) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield Lab(tmp_path / "server", proxy)
