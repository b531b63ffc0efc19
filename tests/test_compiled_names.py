"""A name for an error means one class in a function of a compiled module.

To mypyc a name has one type in a function, that of its first use. A second ``except B as error`` after ``except A as error``, where
A is a compiled class, raises TypeError for every B.
"""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {name: (ROOT / f"gateway/{name}.py").read_text() for name in runpy.run_path(str(ROOT / "setup.py"))["COMPILED"].split()}
CLASSES = {node.name for source in SOURCES.values() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}


def handlers_of(function: ast.AST) -> Iterator[ast.ExceptHandler]:
    """The except clauses of a function, without those of functions in it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type:
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            yield from handlers_of(node)


def double_names(source: str) -> list[str]:
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            kinds: dict[str, set[str]] = {}
            for handler in handlers_of(function):
                kinds.setdefault(str(handler.name), set()).add(ast.unparse(handler.type))
            found += [f"{function.name}: {name}" for name, types in kinds.items() if len(types) > 1 and types & CLASSES]
    return found


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_name_of_an_error_has_one_type(module):
    assert double_names(SOURCES[module]) == []


@pytest.mark.parametrize("first, second, found", [
    ("ConnectionLost as error", "OSError as error", ["f: error"]),
    ("OSError as error", "ConnectionLost as error", ["f: error"]),
    ("ConnectionLost as error", "OSError as other", []),
    ("ConnectionLost as error", "ConnectionLost as error", []),
    ("OSError as error", "ValueError as error", []),
])
def test_a_planted_second_type_is_seen(first, second, found):
    source = f"def f():\n    try:\n        pass\n    except {first}:\n        pass\n    except {second}:\n        pass"
    assert double_names(source) == found
