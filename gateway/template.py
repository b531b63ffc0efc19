"""Text with holes, ``{reference}`` or ``{reference:-default}``, for calls that are made out of a request and other calls' answers.

Templates are compiled when the gateway is built, into literals and getters; a request only joins them. ``{{`` and ``}}`` are
braces. A reference is one of

==================  ===============================================================================================
``{id}``            a path parameter
``{query.name}``    a query parameter, ``{header.name}`` a header field, ``{cookie.name}`` a cookie; the first counts
``{body.a.b}``      a field of the request's JSON body
``{user.a.0.b}``    a field of another part's answer; a number is a position in a list
==================  ===============================================================================================

What a value can do depends on where it stands, and it can never do more:

==================  ===============================================================================================
path                percent-encoded as a whole (RFC 3986 section 2.4), so it adds no segment and no query; neither
                    empty nor ``.`` nor ``..``, so it takes no segment away
query               percent-encoded as a whole, so it does not end its parameter
header              sent as UTF-8; control characters are refused, so it does not end its line (RFC 9110 section 5.5)
JSON                a string that is one hole and nothing else becomes the value with its type; others stay strings
==================  ===============================================================================================

Text, numbers and booleans fit into text; objects and lists do not. What is missing or null gives way to the default, which is
text. Without one it is an error, BadRequest or PartFailed by where it should have come from; but null may stand in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import quote

from .errors import BadRequest, PartFailed, with_cause
from .http.grammar import CONTROL, DOT_SEGMENT
from .message import Request
from .routing.conditions import Facts, as_bytes, as_text
from .values import did_you_mean

BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
REFERENCE = re.compile(r"[^\s:{}]+")
PCHAR = r"[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2}"
TARGET = re.compile(rf"/(?!/)(?:{PCHAR}|/)*(?:\?(?:{PCHAR}|[/?\[\]])*)?")
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


class Inputs:
    """The values that templates read: a request, its JSON ``body`` if used, and the ``answers`` of parts by name."""

    __slots__ = ("request", "facts", "body", "answers")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.facts = Facts(request)
        self.body: Any = MISSING
        self.answers: dict[str, Any] = {}


SOURCES = {"query": "query parameter", "header": "header field", "cookie": "cookie", "body": "field of the body"}


class References:
    """What references mean in the templates of ``part``, given the names of all parts and of the path's parameters (None: not
    known). A reference that means nothing is a ValueError.

    ``after`` collects the parts whose answers are read, ``holes`` the holes for values of the request.
    """

    def __init__(self, part: str, parts: Collection[str], params: Collection[str] | None) -> None:
        self.part = part
        self.parts = parts
        self.params = params
        self.after: list[str] = []
        self.holes: list[Hole] = []

    def __call__(self, hole: Hole) -> tuple[Callable[[Inputs], Any], Callable[[str], Exception]]:
        """``inputs -> value``, and what makes the error from the end of a sentence, like "is missing"."""
        head, dot, rest = hole.reference.partition(".")
        if head in self.parts and rest:
            if head not in self.after:
                self.after.append(head)
            dig = digger(rest)
            return lambda inputs: dig(inputs.answers[head]), lambda why: PartFailed(self.part, f"{hole} {why}")
        self.holes.append(hole)
        if head in SOURCES and rest:
            return reader(head, rest), lambda why: BadRequest(f"{SOURCES[head]} {rest!r} {why}")
        if dot:
            raise ValueError(f"{hole}: there is no part {head!r}{did_you_mean(head, [*self.parts, *SOURCES])}")
        if head in self.parts and head not in (self.params or ()):
            raise ValueError(f"{hole} is a whole answer; write the field that is meant, {{{head}.field}}")
        if self.params is not None and head not in self.params:
            raise ValueError(f"{hole}: the path has no parameter {head!r}{did_you_mean(head, self.params)}")
        return (lambda inputs: inputs.request.params.get(head, MISSING),
                lambda why: BadRequest(f"path parameter {head!r} {why}"))


class Hole:
    """One ``{reference}`` or ``{reference:-default}``. Calling it gives the text for its place."""

    __slots__ = ("inside", "reference", "default", "encode", "get", "refuse")

    def __init__(self, inside: str, encode: Callable[[str], str], references: References) -> None:
        self.inside = inside
        self.reference, colon, default = inside.partition(":-")
        if not REFERENCE.fullmatch(self.reference):
            raise ValueError(f"{self} is not a reference")
        self.encode = encode
        try:
            self.default = encode(default) if colon else None
        except ValueError as error:
            raise with_cause(ValueError(f"the default of {self} {error}"), None)
        self.get, self.refuse = references(self)

    def __call__(self, inputs: Inputs) -> Any:
        value = self.get(inputs)
        if value is None or value is MISSING:
            if self.default is None:
                raise self.refuse("is missing")
            return self.default
        try:
            return self.encode(value if type(value) is str else scalar_text(value))
        except UnicodeEncodeError:
            raise with_cause(self.refuse("is not UTF-8"), None)
        except ValueError as error:
            raise with_cause(self.refuse(str(error)), None)

    def __repr__(self) -> str:
        return f"{{{self.reference}}}"


class JsonHole(Hole):
    """A hole that is a whole JSON value. Calling it gives a value of any type."""

    __slots__ = ()

    def __call__(self, inputs: Inputs) -> Any:
        value = self.get(inputs)
        if isinstance(value, (dict, list, bool, int, float)) or value is None and self.default is None:
            return value
        return super().__call__(inputs)


class Template:
    """``template(inputs) -> str``."""

    __slots__ = ("text", "_pieces")

    def __init__(self, text: str, pieces: list[str | Hole]) -> None:
        self.text = text
        self._pieces = pieces

    def __call__(self, inputs: Inputs) -> str:
        return "".join([piece if piece.__class__ is str else piece(inputs) for piece in self._pieces])   # type: ignore[operator]

    def partly(self, inputs: Inputs, holes: Collection[Hole]) -> str:
        """The text with the values of ``holes``; the others stay as they are written."""
        return "".join([piece if isinstance(piece, str) else piece(inputs) if piece in holes else f"{{{piece.inside}}}"
                        for piece in self._pieces])

    def __repr__(self) -> str:
        return self.text


def target_template(text: str, references: References) -> Template:
    """An origin-form request-target (RFC 9112 section 3.2.1). Raises ValueError."""
    pieces = split(text)
    sample = "".join(["x" if literal is None else literal for literal, _ in pieces])
    if not TARGET.fullmatch(sample):
        raise ValueError(f"{text!r} is not a path with an optional query: other characters are written percent-encoded")
    if DOT_SEGMENT.search(sample.partition("?")[0]):
        raise ValueError(f"{text!r} has dot segments")
    encode, parts = encode_path, []
    for literal, inside in pieces:
        parts.append(Hole(inside, encode, references) if literal is None else literal)
        if literal is not None and "?" in literal:
            encode = encode_query
    return Template(text, parts)


def header_template(text: str, references: References) -> Template:
    """The value of a header field. Raises ValueError."""
    return Template(text, [Hole(inside, encode_header, references) if literal is None else encode_header(literal)
                           for literal, inside in split(text)])


def json_template(value: Any, references: References) -> Any:
    """``value`` with a Template or a JsonHole in place of each string that has holes, for ``fill``. Raises ValueError."""
    if isinstance(value, dict):
        return {key: json_template(item, references) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_template(item, references) for item in value]
    if not isinstance(value, str):
        return value
    pieces = split(value)
    if len(pieces) == 1 and pieces[0][0] is None:
        return JsonHole(pieces[0][1], encode_json, references)
    if all(literal is not None for literal, _ in pieces):
        return "".join([literal or "" for literal, _ in pieces])
    return Template(value, [Hole(inside, encode_json, references) if literal is None else literal for literal, inside in pieces])


def fill(tree: Any, inputs: Inputs) -> Any:
    """The value of a ``json_template``."""
    if isinstance(tree, dict):
        return {key: fill(item, inputs) for key, item in tree.items()}
    if isinstance(tree, list):
        return [fill(item, inputs) for item in tree]
    return tree(inputs) if callable(tree) else tree


def split(text: str) -> list[tuple[str | None, str]]:
    """``(literal, "")`` and ``(None, what is inside the braces)``, in order. Raises ValueError."""
    pieces: list[tuple[str | None, str]] = []
    end = 0
    for match in BRACES.finditer(text):
        pieces.append((text[end:match.start()], ""))
        end = match.end()
        if match[1] is not None:
            pieces.append((None, match[1]))
        elif len(match[0]) == 2:
            pieces.append((match[0][0], ""))
        else:
            raise ValueError(f"{text!r} has a {match[0]} without its partner; a brace itself is written twice")
    pieces.append((text[end:], ""))
    return [piece for piece in pieces if piece[0] != ""]


def reader(kind: str, name: str) -> Callable[[Inputs], Any]:
    """``inputs -> value`` for what a request says by name; of several values the first."""
    if kind == "body":
        dig = digger(name)
        return lambda inputs: dig(inputs.body)
    name = name.lower() if kind == "header" else as_bytes(name)

    def read(inputs: Inputs) -> Any:
        value = inputs.facts.value(kind, name)
        return MISSING if value is None else as_text(value)

    return read


def digger(path: str) -> Callable[[Any], Any]:
    """``value -> the value at path``, names of fields and positions in lists with dots between them; or MISSING."""
    steps = [(key, int(key) if key.isdecimal() else None) for key in path.split(".")]

    def dig(value: Any) -> Any:
        for key, index in steps:
            if isinstance(value, dict):
                value = value.get(key, MISSING)
            elif isinstance(value, list) and index is not None and index < len(value):
                value = value[index]
            else:
                return MISSING
        return value

    return dig


def scalar_text(value: Any) -> str:
    """A JSON value as text. Raises ValueError for what is not one value."""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    raise ValueError("is not a single value")


def encode_query(text: str) -> str:
    if text.isalnum() and text.isascii():
        return text
    return quote(text, safe="", errors="surrogateescape")


def encode_path(text: str) -> str:
    if text in ("", ".", ".."):
        raise ValueError(f"is {text!r}, which is no path segment")
    return encode_query(text)


def encode_header(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError("has control characters")
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def encode_json(text: str) -> str:
    if not text.isascii():
        text.encode()                                    # orjson takes no surrogates
    return text
