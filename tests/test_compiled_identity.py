"""``is`` in a compiled module compares objects, never C values.

A number or a pair that is an attribute of a compiled object is a C value: each read makes another object of it, so ``is`` and
``id`` say nothing. What is compared by ``is`` is a constant, an enum member, the type of something, or stands in ALLOWED.
"""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = runpy.run_path(str(ROOT / "setup.py"))["COMPILED"].split()
ALLOWED = {
    "cache/admission: newest is entry": "an Entry",
    "cache/coalesce: self.flying.get(flight.key) is flight": "a Flight",
    "cache/fetch: self.flights.flying.get(context.flight_key) is flight": "a Flight",
    "cache/fetch: entry is context.entry": "an Entry",
    "cache/fetch_context: key is self.key": "a str, or a tuple made anew: no str",
    "cache/storage/store: node is not present": "a Node",
    "cache/storage/store: self.memory.nodes.get(node.key) is not node": "a Node",
    "cache/syntax: before is not meaning": "a str or True, in a dict",
    "loop/greenlet_pool: self.group is group": "a group of greenlets",
    "routing/table: entry is literal": "a RouteEntry",
    "routing/table: entry is not literal": "a RouteEntry",
    "routing/table: entry.route is literal_answer.route": "a Route, a model of the configuration",
    "server/request_handler: kind is InternalError": "a class",
    "upstream/connecting: endpoints is not connector.endpoints": "a list",
    "upstream/connecting: endpoints is not self.endpoints": "a list",
    "upstream/pool: self._hub is not get_hub()": "the hub of gevent",
}


def is_one_object(side: ast.expr) -> bool:
    """A constant, an enum member or a sentinel (both in capitals), or the type of something."""
    if isinstance(side, ast.Constant):
        return side.value in (None, True, False, ...)
    text = ast.unparse(side)
    return text.rpartition(".")[2].isupper() or text.startswith("type(") or text.endswith(".__class__")


def identities(source: str) -> Iterable[str]:
    """The comparisons by identity of two things that both may be C values."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
                if isinstance(operator, (ast.Is, ast.IsNot)) and not is_one_object(left) and not is_one_object(right):
                    yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "id":
            yield ast.unparse(node)


def test_what_is_compared_by_identity_is_an_object():
    assert {f"{name}: {text}" for name in NAMES for text in identities((ROOT / f"gateway/{name}.py").read_text())} == ALLOWED.keys()


@pytest.mark.parametrize("source, found", [
    ("self.pair is pair", True), ("self.at is not at", True), ("a == b is c", True), ("id(self.at)", True), ("x is 5", True),
    ("a is None", False), ("None is not a", False), ("a is True", False), ("found is MISSING", False), ("a is State.OPEN", False),
    ("type(a) is tuple", False), ("a.__class__ is str", False), ("self.pair == pair", False), ("self.id(a)", False)])
def test_a_planted_identity_is_seen(source, found):
    assert bool(list(identities(source))) is found
