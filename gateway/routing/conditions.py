"""Conditions of a route on a request's header fields, query parameters and cookies. Pure.

``"*"`` is any value, also an empty one. When something comes more than once, the first counts. Query parameters are compared
decoded (``+`` is a space), cookies as they are sent, without the quotes around their value.

Text is compared as messages have it, one character per byte: UTF-8 in the configuration, whatever the client sent in a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from ..config import Route
from ..message import Request
from ..values import quote

COOKIE_NAME = re.compile(r"[^\s;=\x00-\x1f\x7f]+")
COOKIE_VALUE = re.compile(r"[^;\x00-\x1f\x7f]*")
BLANKS = " \t"                  # of HTTP; str.strip() would take bytes of UTF-8 too
LONGEST_LINE = 8190             # bytes of a request line, and of a field with its CRLF: what gunicorn_conf.py allows
TOO_LONG = f"a request with a line of more than {LONGEST_LINE} bytes is refused, so nothing can match"


def decode(segment: str) -> str:
    """A raw segment with its percent-encoding undone, one character per byte. What is no valid escape stays as it is."""
    return unquote_to_bytes(segment.encode("latin-1")).decode("latin-1") if "%" in segment else segment


def as_text(segment: str) -> str:
    """The text of a decoded segment: UTF-8, with bytes that are none as lone surrogates (PEP 383), so that nothing is lost."""
    return segment if segment.isascii() else segment.encode("latin-1").decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> str:
    """Text of the configuration as messages carry it: one character for each byte of its UTF-8."""
    return text if text.isascii() else text.encode().decode("latin-1")


class Condition(NamedTuple):
    """``value`` None is any value. Text is as it is compared: one character per byte, query parameters decoded."""

    kind: Literal["header", "query", "cookie"]
    name: str
    value: str | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def conditions_of(route: Route) -> tuple[Condition, ...]:
    """A route's conditions on header fields, query and cookies, cheapest first."""
    return (*(Condition("header", name.lower(), None if value == "*" else value) for name, value in route.header.items()),
            *(Condition("query", as_bytes(name), None if value == "*" else as_bytes(value))
              for name, value in route.query.items()),
            *(Condition("cookie", as_bytes(name), None if value == "*" else as_bytes(value))
              for name, value in route.cookie.items()))


def condition_rank(route: Route) -> tuple[int, ...]:
    """Smaller goes first: point 4 of the rule."""
    header, query, cookie = len(route.header), len(route.query), len(route.cookie)
    exact = sum(value != "*" for kind in (route.header, route.query, route.cookie) for value in kind.values())
    return -(header + query + cookie), -header, -query, -cookie, -exact


def exclusive(one: Route, other: Route) -> bool:
    """Do two routes require different values of the same thing?"""
    values = {(kind, name): value for kind, name, value in conditions_of(one) if value is not None}
    return any(values.get((kind, name), value) != value for kind, name, value in conditions_of(other) if value is not None)


def impossible(route: Route) -> Iterator[str]:
    """Conditions that no request can meet, or only one that is refused."""
    for name, value in route.header.items():
        if "_" in name:
            yield (f'header.{name}: a request with a "_" in the name of a field is refused, so nothing can match; is'
                   f' {name.replace("_", "-")} meant?')
        elif value != "*" and len(f"{name}:{value}\r\n") > LONGEST_LINE:
            yield f"header.{name}: {TOO_LONG}"
    for name, value in route.cookie.items():
        if not COOKIE_NAME.fullmatch(name) or not COOKIE_VALUE.fullmatch(value):
            yield f"cookie.{name}: no cookie can have this name and value, so nothing can match"
        elif len(value) > 1 and value[0] == value[-1] == '"':
            yield (f"cookie.{name}: quotes around the value of a cookie do not count, so nothing can match; write"
                   f" {quote(value[1:-1])}")
        elif value != "*" and len(as_bytes(f"Cookie:{name}={value}\r\n")) > LONGEST_LINE:
            yield f"cookie.{name}: {TOO_LONG}"
    if "" in route.query:
        yield "query: a parameter needs a name"


class Facts:
    """The values of one request that conditions compare, read on demand: the first value of each name."""

    __slots__ = ("request", "_values")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._values: dict[str, dict[str, str]] = {}

    def hold(self, conditions: tuple[Condition, ...]) -> bool:
        for kind, name, value in conditions:
            present = self.value(kind, name)
            if present is None or value is not None and present != value:
                return False
        return True

    def value(self, kind: str, name: str) -> str | None:
        values = self._values.get(kind)
        if values is None:
            values = self._values[kind] = dict(reversed(list(READERS[kind](self.request))))
        return values.get(name)


def _fields(request: Request) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value.strip(BLANKS)) for name, value in request.headers)


def _parameters(request: Request) -> Iterator[tuple[str, str]]:
    for piece in (request.query or "").replace("+", " ").split("&"):
        name, _, value = piece.partition("=")
        yield decode(name), decode(value)


def _cookies(request: Request) -> Iterator[tuple[str, str]]:
    for line in request.header_list("Cookie"):
        for piece in line.split(";"):
            name, _, value = piece.strip(BLANKS).partition("=")
            yield name, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


READERS: dict[str, Callable[[Request], Iterator[tuple[str, str]]]] = {
    "header": _fields, "query": _parameters, "cookie": _cookies}
