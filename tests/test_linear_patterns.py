"""Every regular expression of the package is matched in linear time, so that no text blocks a worker.

The patterns are found, not listed: those that modules and classes hold, and those that stand in a call of ``re``. Each is judged
by its structure (ambiguity.py), for the methods it is used by.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.ambiguity import superlinear

PACKAGE = Path(__file__).parent.parent / "gateway"
METHODS = {"search", "match", "fullmatch", "finditer", "findall", "sub", "subn", "split"}
NOT_IMPORTED = {"gunicorn_conf", "demo/services", "demo/__main__"}       # they patch, serve or hold no patterns of the gateway
OPERATORS = {                                            # of the operator's own file alone, read once, and why it is not linear
    ("config", "BODY_HOLE"): "many braces in a row",
    ("configfile/load", "VARIABLE"): "many ${name:- without an end",
    ("values", "LOGIN"): "many :// in a text without @",
}


def held() -> dict[tuple[str, str, object], re.Pattern]:
    """The patterns of all modules and their classes, by module and name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = str(path.relative_to(PACKAGE).with_suffix(""))
        if file in NOT_IMPORTED:
            continue                                     # what they compile is judged by test_all_of_them_are_found
        module = importlib.import_module("gateway." + file.replace("/", ".").removesuffix(".__init__"))
        classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
        for holder in (module, *classes):
            for name, value in vars(holder).items():
                for each in value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, dict) else [value]:
                    if isinstance(each, re.Pattern):
                        found[file, name, each.pattern] = each
    return found


def methods_of(source: str, name: str) -> set[str]:
    """By which methods a file uses a pattern; any, when it does not itself."""
    return set(re.findall(rf"\b{name}\.({'|'.join(METHODS)})\b", source)) or {"search"}


def written_in_calls() -> list[tuple[str, str, str]]:
    """What stands in a call like ``re.sub("...", ...)``: file, method and pattern."""
    return [(path.name, node.func.attr, ast.literal_eval(node.args[0]))
            for path in sorted(PACKAGE.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "re"]


HELD = held()


@pytest.mark.parametrize("file, name, pattern", HELD, ids=lambda value: str(value)[:30])
def test_every_pattern_is_linear(file, name, pattern):
    source = (PACKAGE / f"{file}.py").read_text()
    verdict = superlinear(HELD[file, name, pattern], methods_of(source, name))
    assert bool(verdict) is ((file, name) in OPERATORS), verdict


@pytest.mark.parametrize("file, method, pattern", written_in_calls())
def test_every_pattern_in_a_call_is_linear(file, method, pattern):
    assert not superlinear(re.compile(pattern), {method})


def test_all_of_them_are_found():
    """As many as there are calls of re.compile, but for loops around one, and inherited ones."""
    written = sum(path.read_text().count("re.compile(") for path in PACKAGE.rglob("*.py"))
    assert len(HELD) >= written - 5 and set(OPERATORS) <= {(file, name) for file, name, _ in HELD}


@pytest.mark.parametrize("pattern, methods, verdict", [
    (r"(a*)*b", "fullmatch", "exponential"), (r"(?:a+)+b", "fullmatch", "exponential"), (r"(?:a|aa)+b", "match", "exponential"),
    (r"(?:\w|[a-f])+;", "fullmatch", ""), (r"(?:a?b?)*c", "fullmatch", "exponential"), (r"(?i)(?:k|K|\u212a)*;", "fullmatch", ""),
    (r"(?i)(?:kx|\u212ax)*;", "fullmatch", "exponential"), (r"(?:[^\"]|\".*\")*x", "fullmatch", "exponential"),
    (r"a*a*b", "fullmatch", "polynomial"), (r"\s*(\d*)\s*;", "fullmatch", "polynomial"), (r"(?:a,?)*a*b", "match", "polynomial"),
    (r"a+b", "search", "polynomial"), (r"a+b", "fullmatch", ""), (r"\s+$", "sub", "polynomial"), (r"a+", "search", ""),
    (r"\"[^\"]*\"", "findall", ""), (r"\"(?:[^\"]|\\.)*\"", "findall", "polynomial"), (r"[^,]*(?:,[^,]*)*", "fullmatch", ""),
    (r"x.*y.*z", "fullmatch", "polynomial"), (r"(?s)(.*)", "fullmatch", ""), (r"(?s)a*.*", "fullmatch", ""), (r"a*.*", "match", ""),
    (r"(?:a{1,30}){1,30}b", "fullmatch", "exponential"), (r"(?:%[0-9a-f]{2}|[a-z0-9])*;", "fullmatch", ""),
    (rb"(?:[a-z]|[\x61-\x70])*!", "fullmatch", ""), (rb"(?:[a-z]x?|x)*!", "fullmatch", "exponential"),
    # Those that were here
    (r"(?:[,; \t]|\w+=(?:[\w:]+|\"(?:[^\"\\]|\\.)*\")*)*", "fullmatch", "exponential"),
    (r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", "fullmatch", "polynomial"),
    (r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|$))+', "findall", "polynomial"),
])
def test_a_planted_pattern_is_caught(pattern, methods, verdict):
    found = superlinear(re.compile(pattern), {methods})
    assert verdict in found and bool(verdict) is bool(found)


@pytest.mark.parametrize("text", ["a=" + "bbb=" * 40 + '"', 'a="' + "b" * 8000, "a=" + "b" * 8000 + '"', "a=b" * 2000,
                                  "a;" * 4000 + '"', 'a="\\' * 2000, "for=" * 2000])
def test_what_a_trusted_proxy_says_never_blocks(text):
    """It would not end in the life of this machine."""
    from gateway.incoming.request import RequestFactory
    request = RequestFactory(("10.0.0.0/8",), 5)({"REQUEST_METHOD": "GET", "RAW_URI": "/", "REMOTE_ADDR": "10.0.0.1",
                                                  "wsgi.url_scheme": "http", "HTTP_HOST": "a", "HTTP_FORWARDED": text})
    assert request.trusted
