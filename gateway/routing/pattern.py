"""Patterns of a route, for its path and its host, and the precedence of routes. Pure.

**Path.** Matching is on the path as the client sent it, split at ``/``. A segment is compared with its percent-encoding
undone, alone: ``/%61dmin`` is ``/admin``, and ``%2F`` stays inside its segment. A pattern folds nothing: ``//`` makes an empty
segment, ``.`` and ``..`` are segments like others; what servers behind fold is seen to in ``spelling.py``. A segment is:

====================  ==========================================================================================
``/users``            this text, in either encoding
``/{name}``           one segment that is not empty
``/{name:int}``       one segment of digits
``/{name}.json``      parameters with text beside and between them, each of one character or more. A parameter
                      ends where the text after it begins for the first time, the last one at the text that ends
                      the segment: of ``/{a}-{b}``, ``x-y-z`` is ``x`` and ``y-z``
``/{rest:path}``      all that follows the slash, perhaps nothing, at the end; elsewhere, as in
                      ``/{repo:path}/edit``, one segment or more, the first not empty. Once in a path
``/*``                the same without a name, at the end only: ``/api/*`` takes ``/api/`` and ``/api/x/y``, not
                      ``/api``
====================  ==========================================================================================

**Host.** Lower case, without port and trailing dot. ``*.example.org`` takes every name below ``example.org``, at any depth.

**The most specific route wins**, wherever it stands in the file. Compared are, in this order:

1. the host: exact, then the longest wildcard, then any;
2. the path, segment by segment: text, then text with parameters (more text first, then more before the first parameter, then
   digits), then ``{name:int}``, then ``{name}``, then ``{rest:path}`` with segments behind it (more of them first), then
   ``{rest:path}`` at the end and ``/*``;
3. the method: named, then GET named for a HEAD request, then not named;
4. the conditions: more of them, then more on header fields, on query parameters, on cookies, then more with a value.

Routes that are equal in all of this and can match one same request are a mistake, found by ``problems``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, product
from sys import intern
from typing import Any, Literal, NamedTuple

from ..config import Route
from ..errors import with_cause
from ..values import quote
from .conditions import LONGEST_LINE, TOO_LONG, as_bytes, condition_rank, conditions_of, decode, exclusive, impossible
from .notation import remark, translate, without_slash

PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
ADDRESS = re.compile(r"\[[0-9a-f:.]+\]")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
IMPOSSIBLE = re.compile(r"[\x00-\x20?#\x7f]")
CHARACTER_NAMES = {" ": "a space", "?": 'a "?"', "#": 'a "#"'}
RAW_IN_PATH = re.compile(r"[!-\x22$-.0->@-~]")           # what need not be percent-encoded there
RAW_IN_QUERY = re.compile(r"[ -\x22$%'-*,-~]")
BEHIND = (9,)                                            # the end of a pattern: after the shapes of all segments
REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})

LabelledRoute = tuple[str, Route]
Kind = Literal["text", "mixed", "int", "name", "middle", "rest"]
CONVERTERS: dict[str | None, Kind] = {None: "name", "int": "int", "path": "rest"}
RANK: dict[Kind, int] = {"text": 0, "mixed": 1, "int": 2, "name": 3, "middle": 4, "rest": 5}


class MixedSegment(NamedTuple):
    """The parameters of one segment, with the ``texts`` before, between and after them, as ``decode`` gives them."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    digits: tuple[bool, ...]

    @property
    def shape(self) -> tuple[Any, ...]:
        """Point 2 of the rule for those that match one same segment."""
        return -sum(map(len, self.texts)), -len(self.texts[0]), self.texts, tuple(not digits for digits in self.digits)

    def values(self, segment: str) -> tuple[str, ...] | None:
        """The decoded values in a decoded segment; None when it does not match."""
        first, *between, last = self.texts
        start, stop = len(first), len(segment) - len(last)
        if not segment.startswith(first) or not segment.endswith(last):
            return None
        values = []
        for text, digits in zip((*between, ""), self.digits):
            end = segment.find(text, start + 1, stop) if text else stop
            value = segment[start:end]
            if end <= start or digits and not (value.isascii() and value.isdigit()):
                return None
            values.append(value)
            start = end + len(text)
        return tuple(values)


class Segment(NamedTuple):
    """``text`` is the literal as ``decode`` gives it, or the name of the parameter ("" for ``*``). ``after`` are the segments
    behind one of the kind "middle"."""

    kind: Kind
    text: str
    mixed: MixedSegment | None = None
    after: int = 0

    @property
    def shape(self) -> tuple[Any, ...]:
        """Equal for segments that match the same; of two that differ and match one same segment, the smaller goes first."""
        if self.mixed is not None:
            return RANK[self.kind], *self.mixed.shape
        return RANK[self.kind], self.text if self.kind == "text" else -self.after

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters."""
        if self.mixed is not None:
            return self.mixed.names
        return (self.text,) if self.kind != "text" and self.text else ()


def parse_path(path: str) -> tuple[Segment, ...]:
    """The segments of a pattern. Raises ValueError with what is wrong with it."""
    suggestion = translate(path)
    if suggestion is not None:
        raise ValueError(f"{quote(path)} is another framework's notation: did you mean {suggestion}?{remark(path)}")
    if not path.startswith("/"):
        raise ValueError(f'{quote(path)} must start with "/"{without_slash(path)}')
    raw = path.split("/")[1:]
    segments = tuple(_segment(piece, len(raw) - 1 - position) for position, piece in enumerate(raw))
    if sum(segment.kind in ("middle", "rest") for segment in segments) > 1:
        raise ValueError(f"{quote(path)} has two parameters that take several segments, and where one ends could not be told")
    names = parameters_of(segments)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{{{name}}} stands twice; give the second another name")
    return segments


def parameters_of(segments: Iterable[Segment]) -> list[str]:
    return [name for segment in segments for name in segment.names]


def _segment(piece: str, after: int) -> Segment:
    if piece == "*":
        if after:
            raise ValueError("/* stands at the end only; one segment is {name}, several are {name:path}")
        return Segment("rest", "")
    if "{" not in piece and "}" not in piece:
        return Segment("text", intern(_literal(piece)))      # one object for all routes: with many of them it stays in the cache
    matches = list(PARAMETER.finditer(piece))
    texts = PARAMETER.sub("/", piece).split("/")
    if any("{" in text or "}" in text for text in texts):
        raise ValueError(f"a brace of {quote(piece)} has no partner; a brace itself is written %7B or %7D")
    parameters = [_parameter(match) for match in matches]
    if len(parameters) == 1 and texts == ["", ""]:
        kind, name = parameters[0]
        return Segment("middle", name, after=after) if kind == "rest" and after else Segment(kind, name)
    if any(kind == "rest" for kind, _ in parameters):
        raise ValueError(f"{quote(piece)}: what takes several segments stands alone between its slashes")
    if "" in texts[1:-1]:
        raise ValueError(f"{quote(piece)}: nothing says where one parameter ends and the next begins; put text between them")
    mixed = MixedSegment(tuple(intern(_literal(text)) for text in texts), tuple(name for _, name in parameters),
                         tuple(kind == "int" for kind, _ in parameters))
    return Segment("mixed", piece, mixed)


def _parameter(match: re.Match[str]) -> tuple[Kind, str]:
    name, kind = match[1], match[2]
    if not NAME.fullmatch(name):
        raise ValueError(f"{quote(name)} is not the name of a parameter: letters, digits and _ only, not beginning with a digit")
    if kind not in CONVERTERS:
        syntax = f"{{{name}}}, {{{name}:int}} and {{{name}:path}}"
        raise ValueError(f"{quote(kind)} in {match[0]} is unknown: {syntax} are what there is")
    return CONVERTERS[kind], intern(name)


def _literal(piece: str) -> str:
    impossible = IMPOSSIBLE.search(piece)
    if impossible:
        character = impossible[0]
        what = CHARACTER_NAMES.get(character, "a control character")
        raise ValueError(f"{what} never comes in a path, so nothing can match; write %{ord(character):02X} for an encoded one")
    if "*" in piece:
        raise ValueError(f'{quote(piece)}: * is a whole segment at the end, or written %2A')
    if BAD_ESCAPE.search(piece):
        raise ValueError(f'{quote(piece)}: two hexadecimal digits follow a %; a % itself is written %25')
    return decode(as_bytes(piece))


def parameters(path: str) -> frozenset[str] | None:
    """The names of a path's parameters; None for an invalid path, which is reported elsewhere."""
    try:
        return frozenset(parameters_of(parse_path(path)))
    except ValueError:
        return None


def parse_host(host: str) -> str:
    """A route's host in lower case without a trailing dot, ``*.`` kept. Raises ValueError."""
    name = host.lower().removesuffix(".")
    if name == "*":
        raise ValueError('"*" is what a route without host matches; leave it out')
    bare = name.removeprefix("*.")
    if "*" in bare:
        raise ValueError(f'{quote(host)}: * stands alone before the first dot, as in "*.example.org"')
    if not bare.isascii():
        try:
            suggestion = bare.encode("idna").decode()
        except UnicodeError:
            raise with_cause(ValueError(f'{quote(host)} is not a host name'), None)
        raise ValueError(f'{quote(host)} comes in requests as "{suggestion}"; write that')
    if ADDRESS.fullmatch(bare) and bare == name:
        return name
    if ":" in bare:
        raise ValueError(f'{quote(host)} has a port or a scheme; a route\'s host is the name alone')
    if len(bare) > 253 or not all(len(label) < 64 and LABEL.fullmatch(label) for label in bare.split(".")):
        raise ValueError(f'{quote(host)} is not a host name')
    return name


def host_of(authority: str) -> str:
    """The host of a request as routes compare it: lower case, no port, no trailing dot."""
    host = authority.lower()
    if ":" in host and not host.endswith("]"):
        host = host[:host.rindex(":")]
    return host[:-1] if host.endswith(".") else host


def takes(host: str, authority: str) -> bool:
    """Does a route's host match a request's?"""
    pattern, name = parse_host(host), host_of(authority)
    return name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern


def specificity(route: Route) -> tuple[object, ...]:
    """Sorts routes by the rule, as far as it does not depend on the request. A pattern goes before its own beginning, which never
    takes the same segments, but perhaps another reading of them (spelling.py)."""
    host = None if route.host is None else parse_host(route.host)
    path = (*(segment.shape for segment in parse_path(route.path)), BEHIND)
    return host_rank(host), path, route.methods is None, condition_rank(route)


def host_rank(host: str | None) -> tuple[int, int, str]:
    """Smaller goes first: point 1 of the rule."""
    return (2, 0, "") if host is None else (int(host.startswith("*.")), -len(host), host)


def problems(routes: Iterable[Route], labels: Sequence[str] = ()) -> list[str]:
    """What is wrong with a set of routes, a sentence each: patterns that cannot be read, routes that nothing can reach, and routes
    that match the same requests. ``labels`` are what the sentences call the routes."""
    routes = list(routes)
    labels = labels or labels_of(route.name for route in routes)
    mistakes, sound = [], []
    for label, route in zip(labels, routes):
        own = list(route_problems(route))
        mistakes += [f"{label}: {mistake}" for mistake in own]
        if not own:
            sound.append((label, route))
    return mistakes + list(clashes(sound))


def labels_of(names: Iterable[str | None]) -> list[str]:
    """``route "/users"``; with its number in the file where several have the same name, or it has none."""
    names = list(names)
    counts = Counter(names)
    labels = []
    for number, name in enumerate(names, 1):
        if name is None:
            labels.append(f"route number {number}")
        else:
            labels.append(f'route "{name}"' if counts[name] == 1 else f'route "{name}" (number {number})')
    return labels


def route_problems(route: Route) -> Iterator[str]:
    """Reasons why a route can never match."""
    try:
        parse_path(route.path)
    except ValueError as error:
        yield f"path: {error}"
    else:
        if shortest_line(route) > LONGEST_LINE:
            yield f"{'path and query' if route.query else 'path'}: {TOO_LONG}"
    try:
        if route.host is not None:
            parse_host(route.host)
    except ValueError as error:
        yield f"host: {error}"
    if route.methods is not None:
        if not route.methods:
            yield "methods: is empty, so nothing can match; leave it out for every method"
        elif REFUSED_METHODS.issuperset(route.methods):
            yield "methods: the gateway refuses CONNECT and TRACE, so nothing can match"
        elif len(set(route.methods)) < len(route.methods):
            yield "methods: one stands twice"
    yield from impossible(route)


def shortest_line(route: Route) -> int:
    """The least bytes of a request line that matches a route."""
    size = min(map(len, route.methods or ["M"])) + len("  HTTP/1.1")
    for segment in parse_path(route.path):
        if segment.mixed is not None:
            size += sum(encoded_size(text, RAW_IN_PATH) for text in segment.mixed.texts) + len(segment.mixed.names)
        size += 1 + (encoded_size(segment.text, RAW_IN_PATH) if segment.kind == "text"
                     else segment.kind in ("int", "name", "middle"))
    for kind, name, value in conditions_of(route):
        if kind == "query":
            size += 1 + encoded_size(name, RAW_IN_QUERY) + (1 + encoded_size(value, RAW_IN_QUERY) if value else 0)
    return size


def encoded_size(text: str, raw: re.Pattern[str]) -> int:
    """Bytes of a text whose characters are percent-encoded where they are not ``raw``."""
    return 3 * len(text) - 2 * len(raw.findall(text))


def clashes(routes: Iterable[LabelledRoute]) -> Iterator[str]:
    """Pairs of routes with equal specificity that one request can match."""
    groups: dict[object, list[LabelledRoute]] = {}
    for label, route in routes:
        groups.setdefault(specificity(route), []).append((label, route))
    for group in groups.values():
        for (first, one), (second, other) in _suspects(group):
            same_method = one.methods is None or not set(one.methods).isdisjoint(other.methods or ())
            if same_method and not exclusive(one, other):
                yield f"{first} and {second}: two routes match the same requests; {_remedy(one, other)}"


def _suspects(group: list[LabelledRoute]) -> Iterator[tuple[LabelledRoute, LabelledRoute]]:
    """The pairs to compare: routes with the same conditions and values, and routes with different conditions. Same conditions with
    different values are left out: they would be all pairs of a thousand tenants told apart by a header."""
    forms: dict[object, dict[object, list[LabelledRoute]]] = {}
    for entry in group:
        conditions = sorted(conditions_of(entry[1]), key=lambda condition: condition[:2])
        form = tuple((kind, name, value is None) for kind, name, value in conditions)
        forms.setdefault(form, {}).setdefault(tuple(condition.value for condition in conditions), []).append(entry)
    for same in forms.values():
        for equal in same.values():
            yield from combinations(equal, 2)
    for left, right in combinations(forms.values(), 2):
        yield from product(chain.from_iterable(left.values()), chain.from_iterable(right.values()))


def _remedy(one: Route, other: Route) -> str:
    if one.methods and other.methods and set(one.methods) != set(other.methods):
        return f"both name {', '.join(sorted(set(one.methods) & set(other.methods)))}"
    return "remove one, or tell them apart by host, methods or a condition"
