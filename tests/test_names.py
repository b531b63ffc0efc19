"""A name stands for one thing: no two files of the package have the same name, and no two classes."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "gateway"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def classes_of(source: str) -> Iterable[str]:
    """The classes of a file, those inside others and inside functions too."""
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_no_file_name_repeats():
    assert repeated(path.name for path in FILES) == []


def test_no_class_name_repeats():
    assert repeated(name for path in FILES for name in classes_of(path.read_text())) == []


def test_a_planted_class_of_a_name_that_is_there_is_found():
    assert repeated([*classes_of("class A:\n    class B: ..."), *classes_of("def f():\n    class A: ...")]) == ["A"]
