"""Which imports a file has, read from its source: inside functions and for type checkers too, and whatever counts as an import.

What can import by a computed name counts as an import of anything, a method that reads the clock as one of ``time``, ``open`` as
one of ``os``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

ANY = "any module at all"
MACHINERY = re.compile(r"(builtins|importlib|pkgutil|runpy|sys\.modules)\b")
HARMLESS = re.compile(r"(importlib\.metadata|pkgutil\.iter_modules)\b")         # import nothing
CODE_RUNNERS = {"__builtins__", "__import__", "__loader__", "__spec__", "eval", "exec"}
# What an import gives, when that is not what it names: with ``as`` (False) or without (True).
RENAMED = {("os.path", True): "os", ("sys", False): "sys.modules"}
CLOCK_METHODS = {"now", "today", "utcnow"}          # of datetime and date; count as an import of ``time``


class Import(NamedTuple):
    """``file`` is like ``upstream/pool``, ``name`` like ``gateway.errors.GatewayError`` or ``flask``. ``lazy``: inside a function.
    ``typing``: for type checkers alone."""

    file: str
    line: int
    name: str
    lazy: bool = False
    typing: bool = False

    def __str__(self) -> str:
        return f"{self.file}.py:{self.line} imports {self.name}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, absolute, down to the name, and what counts as one."""
    package = ["gateway", *file.split("/")][:-1]

    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for name in names_of(node, package):
            yield Import(file, getattr(node, "lineno", 0), name, lazy, typing)
        body = getattr(node, "body", ()) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else ()
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy, typing or child in body)

    return visit(ast.parse(source), False, False)


def names_of(node: ast.AST, package: list[str]) -> list[str]:
    """What one node imports, or counts as importing."""
    if isinstance(node, ast.Import):
        return [RENAMED.get((alias.name, alias.asname is None), alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[:len(package) + 1 - node.level] if node.level else []
        return [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
    if isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
        match node.args[0]:
            case ast.Constant(value=str(name)) if not name.startswith("."):
                return [name]
    match node:
        case ast.Name(id=name) if name in CODE_RUNNERS:
            return [ANY]
        case ast.Name(id="open"):
            return ["os.open"]
        case ast.Attribute(value=ast.Name(id="sys"), attr="modules"):
            return ["sys.modules"]
        case ast.Attribute(attr=name) if name in CLOCK_METHODS:
            return ["time"]
    return []


def called(node: ast.Call) -> str:
    """The last name of what is called: ``import_module`` of ``importlib.import_module(...)``."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def imports_anything(found: Import) -> bool:
    """Does it import by a name that nobody can tell, or give the means?"""
    return found.name == ANY or MACHINERY.match(found.name) is not None and HARMLESS.match(found.name) is None
