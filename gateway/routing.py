"""Which route answers: a table built once, asked for every request. What a pattern means and which route goes first is written
at the head of ``pattern.py``; this file finds that route without looking at the others. Pure.

For each host there is a dict of the paths without parameters, which answers most requests with one look, and a tree of
segments. A node of the tree has children by text, one for ``{name:int}`` and one for ``{name}``, and may end a route; they are
tried in this order, and when what a child leads to does not match, the next is tried. So the cost is that of the path's
segments and of the routes that share the very same pattern, however many others there are.

The conditions of a route are looked at last, and the query and the cookies are parsed only when one asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from .conditions import Facts, as_text, condition_rank, conditions_of, decoded
from .config import Route
from .errors import ConfigError, GatewayError, MethodNotAllowed, NoRoute
from .message import Request
from .pattern import host_of, host_rank, parse_host, parse_path, problems
from .values import quoted

__all__ = ["Considered", "Explanation", "Table", "problems"]

T = TypeVar("T")
SHOWN = 20                                               # candidates in the text of an explanation
LONGEST_HOST = 255                                       # RFC 1035 section 3.1


class Table(Generic[T]):
    """Routes with what answers them. Raises ConfigError when a pattern cannot be read. Which of two equal routes wins is not
    defined: ask ``problems`` first."""

    def __init__(self, entries: Iterable[tuple[Route, T]]) -> None:
        hosts: dict[str | None, HostTable[T]] = {}
        self._size = 0
        for route, target in entries:
            try:
                host = None if route.host is None else parse_host(route.host)
                entry = Entry(route, target)
            except ValueError as error:
                raise ConfigError([f'route "{route.name}": {error}']) from None
            hosts.setdefault(host, HostTable(host)).add(entry)
            self._size += 1
        for table in hosts.values():
            table.seal()
        self._hosts = [table for _, table in sorted(hosts.items(), key=lambda item: host_rank(item[0]))]
        self._any = tuple(table for table in self._hosts if table.host is None)
        wild = {table.host[1:]: table for table in self._hosts if table.host and table.host.startswith("*.")}
        below = {suffix: (table, *_wider(suffix, wild), *self._any) for suffix, table in wild.items()}
        self._below = below
        self._exact = {table.host: (table, *_below(table.host, below, self._any))
                       for table in self._hosts if table.host and not table.host.startswith("*.")}
        self._by_host = bool(self._exact or self._below)

    def match(self, request: Request) -> tuple[T, dict[str, str]]:
        """What answers the request, and the path parameters as decoded text. Raises NoRoute and MethodNotAllowed."""
        path, method = request.path, request.method
        plain = "%" not in path
        segments: list[str] = []
        facts = None
        for table in self._tables(request.host) if self._by_host else self._any:
            if plain and (leaf := table.static.get(path)) is not None:
                found = leaf.by_method.get(method, leaf.others)
                if found and not found[0].conditions:
                    return found[0].target, {}
            if facts is None:
                facts, segments = Facts(request), segments_of(path)
            entry = _find(table.root, segments, 0, facts)
            if entry is not None:
                return entry.target, entry.params(segments) if entry.captures or entry.rest else {}
        raise self._refusal(request, segments_of(path))

    def reaches(self, path: str) -> bool:
        """Is there a route with a pattern for this path, whatever else it asks for?"""
        segments = segments_of(path)
        return any(True for table in self._hosts for _ in table.reached(segments))

    def _tables(self, authority: str) -> tuple[HostTable[T], ...]:
        """The tables of the hosts that match, the most specific first."""
        host = host_of(authority)
        return self._exact.get(host) or _below(host, self._below, self._any)

    def _refusal(self, request: Request, segments: list[str]) -> GatewayError:
        """405 when something matches all but the method, else 404."""
        facts = Facts(request)
        allow = {method for table in self._tables(request.host) for leaf in table.reached(segments) for entry in leaf.entries
                 if facts.hold(entry.conditions) for method in entry.route.methods or ()}
        if not allow:
            return NoRoute(f"no route for {request.method} {request.host}{request.path}")
        return MethodNotAllowed(sorted(allow | {"HEAD"} if "GET" in allow else allow))

    def explain(self, request: Request) -> Explanation:
        """What ``match`` decides and why: every route whose path matches, the most specific first, with its verdict."""
        segments, facts = segments_of(request.path), Facts(request)
        mine, considered = self._tables(request.host), []
        winner: Entry[T] | None = None
        for table in (*mine, *(table for table in self._hosts if table not in mine)):
            for leaf in table.reached(segments):
                for entry in leaf.candidates(request.method):
                    verdict = _mismatch(entry, table in mine, request, facts)
                    if not verdict and winner is None:
                        winner, verdict = entry, "answers"
                    elif not verdict and winner is not None:
                        verdict = f"matches too, but {_less_specific(entry, winner, request.method)}"
                    considered.append(Considered(entry.route, verdict))
        if winner is not None:
            return Explanation(request, winner.route, winner.params(segments), considered, None)
        return Explanation(request, None, {}, considered or list(self._near(request)), self._refusal(request, segments))

    def _near(self, request: Request) -> Iterator[Considered]:
        """Routes that miss the path by the slash at its end."""
        path = request.path[:-1] if request.path.endswith("/") else request.path + "/"
        for table in self._tables(request.host):
            for leaf in table.reached(segments_of(path)):
                for entry in leaf.entries:
                    yield Considered(entry.route, f'would take "{path}"')

    def __repr__(self) -> str:
        hosts = sum(table.host is not None for table in self._hosts)
        return f"{self._size} routes" + (f", {hosts} hosts" if hosts else "")


class Entry(Generic[T]):
    """One route with its target, and where in the path its parameters are."""

    __slots__ = ("route", "target", "segments", "conditions", "captures", "rest")

    def __init__(self, route: Route, target: T) -> None:
        self.route = route
        self.target = target
        self.segments = parse_path(route.path)
        self.conditions = conditions_of(route)
        self.captures = tuple((position, segment.text) for position, segment in enumerate(self.segments)
                              if segment.kind in ("int", "name"))
        last = self.segments[-1]
        self.rest = last.text if last.kind == "rest" else ""

    def params(self, segments: list[str]) -> dict[str, str]:
        found = {name: as_text(segments[position]) for position, name in self.captures}
        if self.rest:
            found[self.rest] = as_text("/".join(segments[len(self.segments) - 1:]))
        return found

    def __repr__(self) -> str:
        return f"Entry({self.route.name})"


class Leaf(Generic[T]):
    """The routes of one pattern: they differ in methods and conditions."""

    __slots__ = ("entries", "by_method", "others")

    def __init__(self) -> None:
        self.entries: list[Entry[T]] = []
        self.by_method: dict[str, tuple[Entry[T], ...]] = {}
        self.others: tuple[Entry[T], ...] = ()

    def seal(self) -> None:
        """Sort, and make the list of candidates for each method that is named."""
        self.entries.sort(key=lambda entry: condition_rank(entry.route))
        self.others = tuple(entry for entry in self.entries if entry.route.methods is None)
        methods = {method for entry in self.entries for method in entry.route.methods or ()}
        for method in methods | {"HEAD"} if "GET" in methods else methods:
            named = [entry for entry in self.entries if method in (entry.route.methods or ())]
            implied = [entry for entry in self.entries if method == "HEAD" and entry not in named
                       and "GET" in (entry.route.methods or ())]
            self.by_method[method] = (*named, *implied, *self.others)

    def first(self, facts: Facts) -> Entry[T] | None:
        """The most specific route that matches the method and the conditions."""
        for entry in self.by_method.get(facts.request.method, self.others):
            if not entry.conditions or facts.hold(entry.conditions):
                return entry
        return None

    def candidates(self, method: str) -> list[Entry[T]]:
        """All of them, those that take ``method`` first and in their order."""
        suited = self.by_method.get(method, self.others)
        return [*suited, *(entry for entry in self.entries if entry not in suited)]


NOTHING: dict[str, Any] = {}


class Node(Generic[T]):
    """A place between two slashes, with what may follow there."""

    __slots__ = ("text", "integer", "name", "rest", "leaf")

    def __init__(self) -> None:
        self.text: dict[str, Node[T]] = NOTHING              # its own once there is something
        self.integer: Node[T] | None = None
        self.name: Node[T] | None = None
        self.rest: Leaf[T] | None = None
        self.leaf: Leaf[T] | None = None


class HostTable(Generic[T]):
    """The routes of one host: ``None`` for those of any."""

    __slots__ = ("host", "static", "root", "leaves")

    def __init__(self, host: str | None) -> None:
        self.host = host
        self.static: dict[str, Leaf[T]] = {}
        self.root: Node[T] = Node()
        self.leaves: list[Leaf[T]] = []

    def add(self, entry: Entry[T]) -> None:
        node = self.root
        for segment in entry.segments:
            if segment.kind == "text":
                if node.text is NOTHING:
                    node.text = {}
                node = node.text.setdefault(segment.text, Node())
            elif segment.kind == "int":
                node.integer = node = node.integer or Node()
            elif segment.kind == "name":
                node.name = node = node.name or Node()
        if entry.segments[-1].kind == "rest":
            leaf = node.rest = node.rest or self._leaf()
        else:
            leaf = node.leaf = node.leaf or self._leaf()
        leaf.entries.append(entry)
        if all(segment.kind == "text" and "/" not in segment.text for segment in entry.segments):
            self.static["".join("/" + segment.text for segment in entry.segments)] = leaf

    def _leaf(self) -> Leaf[T]:
        self.leaves.append(Leaf())
        return self.leaves[-1]

    def seal(self) -> None:
        for leaf in self.leaves:
            leaf.seal()

    def reached(self, segments: list[str]) -> Iterator[Leaf[T]]:
        """Every pattern that matches the path, the most specific first."""
        return _all(self.root, segments, 0)


def segments_of(path: str) -> list[str]:
    """The decoded segments of a raw path. What is no path, like the ``*`` of OPTIONS, has none, which no pattern matches."""
    if "%" in path:
        segments = [decoded(segment) for segment in path.split("/")]
    else:
        segments = path.split("/")
    if segments[0]:
        return []
    del segments[0]
    return segments


def _find(node: Node[T], segments: list[str], depth: int, facts: Facts) -> Entry[T] | None:
    """The first route of ``_all`` that matches the request; unrolled because it runs for every request."""
    if depth == len(segments):
        return node.leaf.first(facts) if node.leaf is not None and depth else None
    segment = segments[depth]
    child = node.text.get(segment)
    if child is not None and (found := _find(child, segments, depth + 1, facts)) is not None:
        return found
    if segment:
        child = node.integer
        if child is not None and segment.isascii() and segment.isdigit():
            if (found := _find(child, segments, depth + 1, facts)) is not None:
                return found
        child = node.name
        if child is not None and (found := _find(child, segments, depth + 1, facts)) is not None:
            return found
    return node.rest.first(facts) if node.rest is not None else None


def _all(node: Node[T], segments: list[str], depth: int) -> Iterator[Leaf[T]]:
    if depth == len(segments):
        if node.leaf is not None and depth:
            yield node.leaf
        return
    segment = segments[depth]
    if segment in node.text:
        yield from _all(node.text[segment], segments, depth + 1)
    if node.integer is not None and segment.isascii() and segment.isdigit():
        yield from _all(node.integer, segments, depth + 1)
    if node.name is not None and segment:
        yield from _all(node.name, segments, depth + 1)
    if node.rest is not None:
        yield node.rest


def _wider(suffix: str, wild: dict[str, HostTable[T]]) -> list[HostTable[T]]:
    """The wildcards that take in all of ``suffix``, the longest first."""
    return [wild[wider] for wider in _suffixes(suffix) if wider in wild]


def _suffixes(host: str) -> Iterator[str]:
    """``.b.c`` and ``.c`` of ``a.b.c``."""
    dot = host.find(".", 1)
    while dot != -1:
        yield host[dot:]
        dot = host.find(".", dot + 1)


def _below(host: str, below: dict[str, tuple[HostTable[T], ...]], otherwise: tuple[HostTable[T], ...]) -> tuple[HostTable[T], ...]:
    """What serves a host that no route names: the longest wildcard with what is wider than it, or ``otherwise``."""
    if below and len(host) <= LONGEST_HOST:
        for suffix in _suffixes(host):
            if suffix in below:
                return below[suffix]
    return otherwise


class Considered(NamedTuple):
    route: Route
    verdict: str


class Explanation(NamedTuple):
    """``route`` is None when ``error`` is what the client gets. As text: one line, then one for each route considered,
    up to a number that a person reads."""

    request: Request
    route: Route | None
    params: dict[str, str]
    considered: list[Considered]
    error: GatewayError | None

    def __str__(self) -> str:
        if self.route is not None:
            found = "".join(f", {name} = {quoted(value)}" for name, value in self.params.items())
            lines = [f'route "{self.route.name}"{found}']
        else:
            lines = [f"no route: {self.error.status if self.error else 404} {self.error}"]
        lines += [f"  {route.name}: {verdict}" for route, verdict in self.considered[:SHOWN]]
        if len(self.considered) > SHOWN:
            lines.append(f"  and {len(self.considered) - SHOWN} more")
        return "\n".join(lines)


def _mismatch(entry: Entry[T], host_matches: bool, request: Request, facts: Facts) -> str:
    """What of the request does not match a route whose path does, or nothing."""
    methods, method = entry.route.methods, request.method
    reasons = []
    if not host_matches:
        reasons.append(f"the host is {host_of(request.host) or 'missing'}, not {entry.route.host}")
    if methods is not None and method not in methods and not (method == "HEAD" and "GET" in methods):
        reasons.append(f"the method is {method}, not {' or '.join(methods)}")
    for condition in entry.conditions:
        found = facts.value(condition.kind, condition.name)
        if found is None:
            reasons.append(f"{condition} is missing")
        elif condition.value is not None and found != condition.value:
            reasons.append(f'{condition} is "{as_text(found)}", not "{as_text(condition.value)}"')
    return "; ".join(reasons)


def _less_specific(entry: Entry[T], winner: Entry[T], method: str) -> str:
    """Where the rule puts ``entry`` behind ``winner``."""
    route, better = entry.route, winner.route
    if (route.host and parse_host(route.host)) != (better.host and parse_host(better.host)):
        return "its host is less specific"
    if [segment.shape for segment in entry.segments] != [segment.shape for segment in winner.segments]:
        return "its path is less specific"
    if _method_rank(route, method) != _method_rank(better, method):
        return f"it does not name {method}"
    return "its conditions are less specific"


def _method_rank(route: Route, method: str) -> int:
    methods = route.methods
    return 2 if methods is None else int(method not in methods)
