"""A slice in a compiled module has no bound that does something.

mypyc evaluates ``begin`` and ``end`` of ``data[begin:end]`` twice where it does not know the type of ``data`` (a memoryview, say):
bytes that a bound sends are sent twice.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = runpy.run_path(str(ROOT / "setup.py"))["COMPILED"].split()
HARMLESS = {"len", "max", "min", "start", "end", "index", "rindex", "find", "rfind"}         # may be called twice


def doings(source: str) -> list[str]:
    """The slices with a call within their bounds of something that is not harmless."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            for part in ast.walk(node.slice):
                name = ast.unparse(part.func).rpartition(".")[2] if isinstance(part, ast.Call) else ""
                if isinstance(part, (ast.NamedExpr, ast.Yield)) or isinstance(part, ast.Call) and name not in HARMLESS:
                    found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_bound_of_a_slice_does_something(module):
    assert doings((ROOT / f"gateway/{module}.py").read_text()) == []


@pytest.mark.parametrize("source, found", [
    ("view[self.send(view):]", True), ("view[:take()]", True), ("view[(size := 5):]", True), ("view[size:]", False),
    ("data[len(head):max(0, size)]", False), ("path[match.end():]", False), ("view[self.send(view)]", False)])
def test_a_planted_bound_is_seen(source, found):
    assert bool(doings(source)) is found
