"""Who may change what in the daemon: an object's fields are assigned to where its class is, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd

PACKAGE = Path(omewd.__file__).parent
FILES = sorted((PACKAGE / "daemon").rglob("*.py"))
MOST_COLLABORATORS = 5


def by_name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def targets(tree: ast.AST) -> Iterator[ast.expr]:
    """Everything that is assigned to, or deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            pending = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
            pending = [node.target]
        else:
            continue
        while pending:
            target = pending.pop()
            if isinstance(target, ast.Tuple | ast.List):
                pending += target.elts
            else:
                yield target.value if isinstance(target, ast.Starred) else target


def field_of_another(target: ast.expr) -> str | None:
    """The field, where an assignment changes one of an object other than ``self``, or an entry in it."""
    while isinstance(target, ast.Subscript):
        target = target.value
    if not isinstance(target, ast.Attribute):
        return None
    is_own = isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")
    return None if is_own else target.attr


def fields_of_classes(tree: ast.Module) -> set[str]:
    """The fields that the classes of a file have."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names |= {
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_fields_are_assigned_to_by_their_own_class(path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = fields_of_classes(tree)
    foreign = [
        f"line {target.lineno}: {ast.unparse(target)}"
        for target in targets(tree)
        if (name := field_of_another(target)) is not None and name not in own
    ]
    assert foreign == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("self.x = 1", []),
        ("x[0] = 1", []),
        ("stream.state = 1", ["state"]),
        ("self.stream.state += 1", ["state"]),
        ("a, (stream.state, *b.c) = 1, (2, 3)", ["c", "state"]),
        ("self._streams.kept[name] = 1", ["kept"]),
        ("del self._streams.kept[name]", ["kept"]),
        ("self._own[name] = 1", []),
        ("for stream.at in range(3): pass", ["at"]),
        ("stream.state: int = 1", ["state"]),
    ],
)
def test_assignments_to_others_are_seen(code: str, found: list[str]) -> None:
    assert sorted(filter(None, map(field_of_another, targets(ast.parse(code))))) == found


def daemon_classes() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in FILES]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def constructors(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(class, the types of what its constructor takes) of a file; of a dataclass, of the fields that must be given."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        types = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign) and each.value is None]
        if inits:
            arguments = [*inits[0].args.posonlyargs, *inits[0].args.args, *inits[0].args.kwonlyargs]
            types = [each.annotation for each in arguments if each.annotation is not None]
        yield node.name, [ast.unparse(each) for each in types]


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_no_constructor_takes_more_collaborators_than_one_can_follow(path: Path) -> None:
    known = daemon_classes()
    for name, types in constructors(path):
        collaborators = [each for each in types if each in known]
        assert len(collaborators) <= MOST_COLLABORATORS, f"{name} takes {', '.join(collaborators)}"
