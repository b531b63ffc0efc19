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
# Compiled functions that call themselves, and how deep at most: no recursion limit of Python's holds for them, only the C stack.
RECURSIVE = {
    "aggregate/target: Aggregate.answer": "once for each part, which it gives up first",
    "cache/purging/purge_index: PurgeIndex.add": "twice: the short form of a purge is another kind",
    "routing/segment_tree: _all": "the segments of the longest pattern of the configuration",
    "routing/segment_tree: find": "the segments of the longest pattern of the configuration",
    "template: fill": "the levels of a part's body in the configuration (configfile/load.py: DEEPEST)",
    "template: json_template": "the levels of a part's body in the configuration (configfile/load.py: DEEPEST)",
    "upstream/requests/call: pieces_of": "twice: a file within a body has no file in it",
}


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


def functions_of(source: str) -> dict[str, set[str]]:
    """The functions and methods of a file, each with those of the file that it calls."""
    calls: dict[str, set[str]] = {}

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
                calls[prefix + node.name] = {
                    *(f.id for f in called if isinstance(f, ast.Name)),
                    *(prefix + f.attr for f in called if isinstance(f, ast.Attribute) and ast.unparse(f.value) == "self")}

    look(ast.parse(source).body, "")
    return calls


def recursive(source: str) -> set[str]:
    calls = functions_of(source)

    def reached(name: str) -> set[str]:
        found: set[str] = set()
        ahead = [*calls[name]]
        while ahead:
            following = ahead.pop()
            if following in calls and following not in found:
                found.add(following)
                ahead.extend(calls[following])
        return found

    return {name for name in calls if name in reached(name)}


def test_what_calls_itself_has_a_bound_that_no_request_sets():
    found = {f"{name}: {function}" for name in NAMES for function in recursive((ROOT / f"gateway/{name}.py").read_text())}
    assert found == RECURSIVE.keys()


@pytest.mark.parametrize("source, found", [
    ("def f(): f()", {"f"}),
    ("def f(): g()\ndef g(): h()\ndef h(): f()", {"f", "g", "h"}),
    ("def f(): g()\ndef g(): pass", set()),
    ("class A:\n  def f(self): self.g()\n  def g(self): self.f()", {"A.f", "A.g"}),
    ("class A:\n  def f(self): self.x.f()", set()),
])
def test_a_planted_recursion_is_found(source, found):
    assert recursive(source) == found


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
