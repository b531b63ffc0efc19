"""A constant of our modules is the same for all tests: what a test needs otherwise is a parameter.

A compiled module has its constants built in, and a patched one says nothing about the code that runs with the value that is there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OURS = re.compile(r"gateway(\.|$)")
CONSTANT = re.compile(r"(?:.*\.)?(_?[A-Z][A-Z0-9_]+)")
SETTERS = {"setattr", "delattr", "__setattr__", "object", "patch"}                 # the last two are of unittest.mock


def changed_constants(source: str) -> list[str]:
    """The places that give a constant of the package another value: by a patch, or by an assignment."""
    tree = ast.parse(source)
    names = {name for node in ast.walk(tree) for name in imported(node)}
    return [f"{node.lineno}: {ast.unparse(target)}: {constant}" for node in ast.walk(tree) for target, constant in changes(node)
            if is_ours(target, names)]


def imported(node: ast.AST) -> Iterator[str]:
    """The names that an import of ours gives."""
    if isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names if OURS.match(alias.name))
    elif isinstance(node, ast.ImportFrom) and OURS.match(node.module or "") and not node.level:
        yield from (alias.asname or alias.name for alias in node.names)


def changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The object and its constant, for each one that this node may set."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name not in SETTERS:
            return
        case ast.Call(args=[target, ast.Constant(value=str(name)), *_]) if CONSTANT.fullmatch(name):
            yield target, name
        case ast.Call(args=[ast.Constant(value=str(path)) as target, *_]) if found := CONSTANT.fullmatch(path):
            yield target, found[1]
        case ast.Attribute(value=target, attr=name, ctx=ast.Store() | ast.Del()) if CONSTANT.fullmatch(name):
            yield target, name


def is_ours(target: ast.expr, names: set[str]) -> bool:
    """Does an expression begin with an imported name, or is it a path into the package?"""
    while isinstance(target, ast.Attribute):
        target = target.value
    match target:
        case ast.Constant(value=str(path)):
            return bool(OURS.match(path))
        case ast.Name(id=name):
            return name in names
    return False


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_changes_a_constant(path):
    assert changed_constants(path.read_text()) == []


@pytest.mark.parametrize("line, found", [
    ('monkeypatch.setattr(tasks, "GRACE", 0.1)', ["2: tasks: GRACE"]),
    ('monkeypatch.setattr(bus.redis_stream, "BLOCK", 0.1)', ["2: bus.redis_stream: BLOCK"]),
    ('monkeypatch.setattr(gateway.tasks, "_GRACE", 0.1, raising=False)', ["2: gateway.tasks: _GRACE"]),
    ('monkeypatch.setattr("gateway.tasks.GRACE", 0.1)', ["2: 'gateway.tasks.GRACE': GRACE"]),
    ('monkeypatch.delattr(tasks, "GRACE")', ["2: tasks: GRACE"]),
    ('setattr(tasks, "GRACE", 0.1)', ["2: tasks: GRACE"]),
    ('with patch.object(tasks, "GRACE", 0.1): pass', ["2: tasks: GRACE"]),
    ('with patch("gateway.tasks.GRACE", 0.1): pass', ["2: 'gateway.tasks.GRACE': GRACE"]),
    ('tasks.GRACE = 0.1', ["2: tasks: GRACE"]),
    ('monkeypatch.setattr(tasks, "spawn", print)', []),
    ('monkeypatch.setattr(time, "GRACE", 0.1)', []),
    ('monkeypatch.setenv("GATEWAY_BUILD", "pure")', []),
    ('assert check(tasks, "GRACE")', []),
    ('assert getattr(tasks, "GRACE") == tasks.GRACE', []),
])
def test_a_planted_change_is_seen(line, found):
    assert changed_constants(f"import gateway.tasks, time; from gateway import bus, tasks\n{line}") == found
