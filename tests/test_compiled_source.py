"""What mypyc reads in another way than Python, and without a word, does not stand in the source of a compiled module."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.errors import with_cause

ROOT = Path(__file__).parent.parent
NAMES = runpy.run_path(str(ROOT / "setup.py"))["COMPILED"].split()


def dropped(source: str) -> Iterable[str]:
    """The statements of which mypyc drops a part."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.cause is not None:
            yield f"line {node.lineno}: raise with_cause(error, cause) instead of raise ... from"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_source_is_dropped(name):
    assert list(dropped((ROOT / f"gateway/{name}.py").read_text())) == []


@pytest.mark.parametrize("statement, number", [
    ("raise A", 0), ("raise", 0), ("raise with_cause(A(), b)", 0), ("raise A from b", 1), ("raise A() from None", 1)])
def test_a_planted_statement_is_found(statement, number):
    assert len(list(dropped(statement))) == number


@pytest.mark.parametrize("cause", [None, KeyError("cause")])
def test_an_error_with_a_cause_is_as_python_raises_it(cause):
    def raised(raise_it):
        try:
            try:
                raise OSError("context")
            except OSError:
                raise_it()
        except ValueError as error:
            return error

    def from_cause():
        raise ValueError("error") from cause

    def ours():
        raise with_cause(ValueError("error"), cause)

    expected, actual = raised(from_cause), raised(ours)
    assert actual.__cause__ is expected.__cause__ is cause
    assert actual.__suppress_context__ is expected.__suppress_context__ is True
    assert repr(actual.__context__) == repr(expected.__context__)
