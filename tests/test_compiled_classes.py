"""A class of a compiled module has only bases whose layout mypyc knows.

An instance of a compiled class is a C structure. mypyc lays it out behind that of a compiled base, of an exception without fields
of its own, or of a dict. Of any other base it knows no layout and says nothing: the attributes of both lie over each other, and the
first use of one corrupts the memory of the process.
"""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Generic, Protocol

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {f"gateway.{name.replace('/', '.')}" for name in runpy.run_path(str(ROOT / "setup.py"))["COMPILED"].split()}
KNOWN = {object, dict, BaseException, Exception, ValueError, LookupError, Generic, Protocol}


def classes_of(module: str) -> Iterator[type]:
    """The classes that a module defines, but for those that mypyc leaves to the interpreter."""
    for thing in vars(importlib.import_module(module)).values():
        if isinstance(thing, type) and thing.__module__ == module and not issubclass(thing, (tuple, Enum)):
            yield thing


def foreign_bases(kind: type) -> list[str]:
    return [base.__qualname__ for base in kind.__mro__ if base.__module__ not in MODULES and base not in KNOWN]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_bases_are_compiled_themselves_or_known(module):
    assert {kind.__qualname__: foreign_bases(kind) for kind in classes_of(module) if foreign_bases(kind)} == {}


@pytest.mark.parametrize("base, foreign", [(object, []), (dict, []), (ValueError, []), (OSError, ["OSError"]), (int, ["int"])])
def test_a_planted_base_is_seen(base, foreign):
    kind = type("Planted", (base,), {"__module__": sorted(MODULES)[0]})
    assert foreign_bases(kind) == foreign
