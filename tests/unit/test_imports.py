"""Which part may import which, and that no file grows over the head."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import omewd

PACKAGE = Path(omewd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# part → the parts that it may import beside itself; a lower line may import those above it.
MAY_IMPORT: dict[str, set[str]] = {
    "error_codes": set(),
    "errors": {"error_codes"},
    "process": {"errors"},
    "model": {"errors"},
    "protocol": {"errors", "model"},
    "ring": {"errors", "process", "model", "protocol"},
    "client": {"errors", "model", "protocol", "omewd"},
    "producer": {"errors", "process", "model", "protocol", "ring", "client"},
    "store": {"errors", "process", "model"},
    "dataset": {"errors", "process", "model", "store"},
    "copier": {"errors", "process", "model", "protocol", "store", "dataset"},
    "reader": {"errors", "model", "protocol", "ring", "client", "store", "dataset"},
    "web": {"errors", "model", "protocol", "client", "reader"},
    "daemon": {"error_codes", "errors", "process", "model", "protocol", "ring", "omewd"},
    "writer": {"errors", "process", "model", "protocol", "ring", "store", "dataset", "omewd"},
    "health": {"errors", "model", "protocol", "daemon", "store"},
    "integrations": {"errors", "process", "model", "protocol", "ring", "client", "producer"},
}
FREE = {"bench", "cli", "__main__", "omewd"}
# The largest folder: what one can name by heart.
MAX_FILES = 13

LIBRARIES = {"numpy", "tensorstore", "zarr", "zarrs", "acquire_zarr", "yaozarrs", "numcodecs"}
NOT_IN: dict[str, set[str]] = {
    "daemon": LIBRARIES,
    "process": LIBRARIES | {"pydantic", "structlog"},
    "protocol": LIBRARIES | {"pydantic", "structlog"},
    "client": LIBRARIES | {"pydantic", "structlog"},
    "ring": (LIBRARIES - {"numpy"}) | {"pydantic", "structlog", "posix_ipc"},
    "model": LIBRARIES - {"numpy"},
    "producer": (LIBRARIES - {"numpy"}) | {"pydantic", "structlog"},
    "integrations": (LIBRARIES - {"numpy"}) | {"ome_writers", "pymmcore_plus"},
}
PRODUCER_MAY_IMPORT = {
    "omewd.__version__",
    "omewd.error_codes",
    "omewd.errors",
    "omewd.process",
    "omewd.model.dtypes",
    "omewd.model.jsonable",
    "omewd.model.record",
    "omewd.protocol",
    "omewd.ring",
    "omewd.client",
    "omewd.producer",
}


def part_of(path: Path) -> str:
    """The folder in the package; a file beside the folders is a part of its own."""
    first = path.relative_to(PACKAGE).parts[0]
    return {"__init__.py": "omewd"}.get(first, first.removesuffix(".py"))


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file, but for type checking only."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    modules: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def own(modules: set[str]) -> set[str]:
    """The parts of omewd among modules; "omewd" for a public name out of the package itself."""
    parts = set()
    for module in modules:
        first, _, rest = module.partition(".")
        if first == "omewd":
            name = rest.split(".")[0]
            parts.add(name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() else "omewd")
    return parts


def by_name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in FREE:
        return
    assert own(imported(path)) <= MAY_IMPORT[part] | {part}


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_libraries_stay_in_the_processes_they_belong_to(path: Path) -> None:
    forbidden = NOT_IN.get(part_of(path), set())
    assert not {module.split(".")[0] for module in imported(path)} & forbidden


def test_the_producer_needs_numpy_and_the_standard_library() -> None:
    """All files that a camera process loads, followed from the producer."""
    pending, seen = [PACKAGE / "producer" / "producer.py"], set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imported(path):
            first = module.split(".")[0]
            if first != "omewd":
                assert first in sys.stdlib_module_names or first == "numpy", f"{by_name(path)} imports {module}"
                continue
            allowed = any(module == name or module.startswith(f"{name}.") for name in PRODUCER_MAY_IMPORT)
            assert allowed, f"{by_name(path)} imports {module}"
            for name in (module, module.rpartition(".")[0]):
                target = PACKAGE.parent / (name.replace(".", "/") + ".py")
                if target.exists():
                    pending.append(target)
    assert len(seen) > 5


def loaded_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {name.split(".")[0] for name in json.loads(output)}


HEAVY = {
    "pydantic",
    "tensorstore",
    "zarr",
    "zarrs",
    "acquire_zarr",
    "structlog",
    "click",
    "rich",
    "yaozarrs",
    "posix_ipc",
}


def test_connecting_loads_nothing_heavy() -> None:
    modules = loaded_after("import omewd; omewd.connect")
    assert "numpy" in modules
    assert not modules & HEAVY


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert not loaded_after("import omewd") & (HEAVY | {"numpy"})


def test_the_command_line_loads_no_library_before_it_knows_the_command() -> None:
    assert not loaded_after("import omewd.cli.main") & (LIBRARIES | {"pydantic", "structlog"})


def test_the_daemon_loads_no_library() -> None:
    assert not loaded_after("import omewd.daemon.daemon") & LIBRARIES


@pytest.mark.parametrize("dtype", ["u2", ">f4", "complex64", "x", "u2,u2", 5, None, [["a", "u1"]], {"names": ["a"]}])
def test_no_dtype_that_a_client_may_ask_for_loads_numpy(dtype: object) -> None:
    """Its import would hold up the daemon, and starts threads."""
    fields = {"name": "a", "dims": "y:4,x:4", "dtype": dtype}
    parse = f"StreamSpec.parse({fields!r})"
    code = f"from omewd.model.spec.spec import StreamSpec, OmewdError\ntry: {parse}\nexcept OmewdError: pass"
    assert "numpy" not in loaded_after(code)


def test_public_names_are_there() -> None:
    for name in omewd.__all__:
        assert getattr(omewd, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = omewd.nothing_like_this


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=by_name)
def test_a_folder_has_no_more_files_than_one_can_name(folder: Path) -> None:
    files = [path for path in FILES if path.parent == folder and path.name != "__init__.py"]
    assert len(files) < MAX_FILES


def test_folders_of_tests_are_as_small() -> None:
    tests = Path(__file__).parents[1]
    for folder in {path.parent for path in tests.rglob("test_*.py")}:
        assert len(list(folder.glob("test_*.py"))) < MAX_FILES, folder
