"""The requests that stores charge for, as the page of copies says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset.keys import files_in
from tests.support.copies import LARGE, Lab, finished

LISTED, UPLOADS = "GET list-type", "GET uploads"


def requests(lab: Lab) -> Counter[str]:
    """The requests since the last call, by their method and the first name in their query."""
    seen = [(method, re.findall(r"[?]([\w-]+)", path)) for method, path in lab.proxy.seen]
    lab.proxy.seen.clear()
    return Counter(" ".join((method, *query)) for method, query in seen)


def test_small_files(dataset: Path, lab: Lab) -> None:
    files = len(copied := list(files_in(str(dataset))))
    copy(dataset, lab.url)
    assert requests(lab) == {"PUT": files + 1, LISTED: 1, UPLOADS: 2}
    copy(dataset, lab.url)
    assert requests(lab) == {"PUT": 1, UPLOADS: 2}
    documents = sum(path.endswith("zarr.json") for path in copied)
    verify_copy(lab.url)
    assert requests(lab) == {LISTED: 1, "GET": documents + 3}
    verify_copy(lab.url, deep=True)
    assert requests(lab) == {LISTED: 1, "GET": documents + 3 + files}
    copy(dataset, lab.url, evict=True)
    assert requests(lab) == {LISTED: 1, "PUT": 1, UPLOADS: 2}


def test_a_large_file(tmp_path: Path, lab: Lab) -> None:
    """This store's ETag of it is not that of the parts, so it is read back."""
    dataset = finished(tmp_path, dims=LARGE)
    small = len(list(files_in(str(dataset)))) - 1
    copy(dataset, lab.url)
    in_parts = {"POST uploads": 1, "PUT partNumber": 3, "POST uploadId": 1, "HEAD": 1}
    read_back = {"GET": 1, "HEAD": 1}
    beside = {"PUT": small + 1, LISTED: 1, UPLOADS: 2}
    assert requests(lab) == Counter(in_parts) + Counter(read_back) + Counter(beside)
