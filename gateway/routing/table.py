"""The table of routes, built once, asked for every request. The meaning of patterns and the precedence of routes are written at the
head of ``pattern.py``; this file finds the route without looking at the others. Pure.

For each host there is a dict of the paths without parameters, which answers most requests with one look, and a tree of
segments (segment_tree.py). So the cost is that of the path's segments and of the routes that share the very same pattern, however
many others there are.

**Other spellings.** A server behind may take ``//admin``, ``/x/../admin`` or ``/admin;x`` for ``/admin`` (spelling.py), so with
``folds`` a path is matched in each of its readings:

====================================================  =============================================================
the path as it came matches nothing                   404 or 405, as without readings
all readings choose the same route                    that one
they do not, and one has a ``..``                     400: no honest client sends such a path
one chooses a route with ``respond``                  that one: nothing is behind it that could read it otherwise
else                                                  the most specific route; 400 where it takes the path apart by
                                                      its slashes and the path as it came chooses another
====================================================  =============================================================

The conditions of a route are looked at last, and the query and the cookies are parsed only when one asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from ..config import Route
from ..errors import ConfigError, GatewayError, InvalidTarget, MethodNotAllowed, NoRoute, with_cause
from ..message import Request
from ..values import quote
from .conditions import Facts, as_text
from .pattern import host_of, host_rank, parse_host, problems, specificity
from .segment_tree import HostTable, RouteCandidate, find, segments_of
from .spelling import RESPELLING, readings

__all__ = ["RouteVerdict", "Explanation", "Table", "problems"]

T = TypeVar("T")
MOST_SHOWN = 20                                          # candidates in the text of an explanation
LONGEST_HOST = 255                                       # RFC 1035 section 3.1


class Table(Generic[T]):
    """Routes with their targets. Raises ConfigError for an invalid pattern. Which of two equal routes wins is not defined: call
    ``problems`` first."""

    def __init__(self, entries: Iterable[tuple[Route, T]], *, folds: bool = False) -> None:
        self._folds = folds
        hosts: dict[str | None, HostTable[T]] = {}
        self._size = 0
        for route, target in entries:
            try:
                host = None if route.host is None else parse_host(route.host)
                entry = RouteCandidate(route, target)
            except ValueError as error:
                raise with_cause(ConfigError([f'route "{route.name}": {error}']), None)
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
        """The target for a request, and the path parameters as decoded text. Raises NoRoute and MethodNotAllowed."""
        path, method = request.path, request.method
        segments: list[str] = []
        facts = None
        for table in self._tables(request.host) if self._by_host else self._any:
            if (leaf := table.static.get(path)) is not None:
                entries = leaf.by_method.get(method, leaf.others)
                if entries and not entries[0].conditions:
                    return entries[0].target, {}
            if facts is None:
                if self._folds and RESPELLING.search(path):
                    return self._match_folded(request)
                facts, segments = Facts(request), segments_of(path)
            entry = find(table.root, segments, 0, facts)
            if entry is not None:
                return entry.target, {} if entry.is_plain else entry.params(segments)
        raise self._refusal(request, segments_of(path))

    def _match_folded(self, request: Request) -> tuple[T, dict[str, str]]:
        """``match`` for a path that servers read in different ways."""
        entry, segments = self._agree(request)
        return entry.target, entry.params(segments)

    def _read(self, request: Request) -> list[tuple[RouteCandidate[T] | None, list[str]]]:
        """The choice of each reading of the path, the path as received first."""
        facts, tables = Facts(request), self._tables(request.host)
        return [(next(filter(None, (find(table.root, segments, 0, facts) for table in tables)), None), segments)
                for segments in readings(request.path)]

    def _agree(self, request: Request) -> tuple[RouteCandidate[T], list[str]]:
        """The route for a path that servers read in different ways, with the segments that chose it. Raises what ``match`` raises,
        and InvalidTarget."""
        choices = self._read(request)
        literal, segments = choices[0]
        if literal is None:
            raise self._refusal(request, segments)
        if all(entry is literal for entry, _ in choices):
            return literal, segments
        if any(".." in segments for _, segments in choices):
            raise InvalidTarget("the path can be read as one of another route")
        candidates = [(entry, segments) for entry, segments in choices if entry is not None]
        entry, segments = min(candidates, key=lambda choice: (choice[0].route.reads_path, specificity(choice[0].route)))
        if entry is not literal and entry.route.splits_path:
            raise InvalidTarget("the path can be read as one of another route, which takes it apart by its slashes")
        return entry, segments

    def reaches(self, path: str) -> bool:
        """Does any route's pattern match this path, whatever its other conditions?"""
        try:
            spellings = readings(path) if self._folds and RESPELLING.search(path) else [segments_of(path)]
        except InvalidTarget:                                # of an upstream's Location, for example
            return True
        return any(True for segments in spellings for table in self._hosts for _ in table.leaves_for(segments))

    def _tables(self, authority: str) -> tuple[HostTable[T], ...]:
        """The tables of the hosts that match, the most specific first."""
        host = host_of(authority)
        return self._exact.get(host) or _below(host, self._below, self._any)

    def _refusal(self, request: Request, segments: list[str]) -> GatewayError:
        """405 when something matches all but the method, else 404."""
        facts = Facts(request)
        allow = {method for table in self._tables(request.host) for leaf in table.leaves_for(segments) for entry in leaf.entries
                 if facts.hold(entry.conditions) for method in entry.route.methods or ()}
        if not allow:
            return NoRoute(f"no route for {request.method} {request.host}{request.path}")
        return MethodNotAllowed(sorted(allow | {"HEAD"} if "GET" in allow else allow))

    def explain(self, request: Request) -> Explanation:
        """What ``match`` decides and why: every route whose path matches, the most specific first, with its verdict."""
        literal_answer = self._explain(request)
        if not self._folds or literal_answer.route is None or not RESPELLING.search(request.path):
            return literal_answer
        literal = [each._replace(verdict="takes the path as it came") if each.verdict == "answers" else each
                   for each in literal_answer.verdicts]
        try:
            entry, segments = self._agree(request)
        except InvalidTarget as error:
            return Explanation(request, None, {}, literal, error, self._spelling_lines(request))
        if entry.route is literal_answer.route:
            return literal_answer
        verdicts = [RouteVerdict(entry.route, "answers"), *literal]
        return Explanation(request, entry.route, entry.params(segments), verdicts, None, self._spelling_lines(request))

    def _spelling_lines(self, request: Request) -> list[str]:
        """A line for each reading of the path."""
        try:
            choices = self._read(request)
        except InvalidTarget:
            return []
        return [f'read as "/{as_text("/".join(segments))}": {entry.route.name if entry else "no route"}'
                for entry, segments in choices]

    def _explain(self, request: Request) -> Explanation:
        """``explain`` for the path as received."""
        segments, facts = segments_of(request.path), Facts(request)
        mine, verdicts = self._tables(request.host), []
        winner: RouteCandidate[T] | None = None
        for table in (*mine, *(table for table in self._hosts if table not in mine)):
            for leaf in table.leaves_for(segments):
                for entry in leaf.candidates(request.method):
                    verdict = _mismatch(entry, table in mine, request, facts)
                    if not verdict and winner is None:
                        winner, verdict = entry, "answers"
                    elif not verdict and winner is not None:
                        verdict = f"matches too, but {_less_specific(entry, winner, request.method)}"
                    verdicts.append(RouteVerdict(entry.route, verdict))
        if winner is not None:
            return Explanation(request, winner.route, winner.params(segments), verdicts, None)
        return Explanation(request, None, {}, verdicts or list(self._near(request)), self._refusal(request, segments))

    def _near(self, request: Request) -> Iterator[RouteVerdict]:
        """Routes that match but for the slash at the end."""
        path = request.path[:-1] if request.path.endswith("/") else request.path + "/"
        for table in self._tables(request.host):
            for leaf in table.leaves_for(segments_of(path)):
                for entry in leaf.entries:
                    yield RouteVerdict(entry.route, f'would take "{path}"')

    def __repr__(self) -> str:
        hosts = sum(table.host is not None for table in self._hosts)
        return f"{self._size} routes" + (f", {hosts} hosts" if hosts else "")


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
    """The tables for a host without a table of its own: those of the longest wildcard and wider ones, or ``otherwise``."""
    if below and len(host) <= LONGEST_HOST:
        for suffix in _suffixes(host):
            if suffix in below:
                return below[suffix]
    return otherwise


class RouteVerdict(NamedTuple):
    route: Route
    verdict: str


class Explanation(NamedTuple):
    """``route`` is None when ``error`` is what the client gets. As text: one line, then one for each route considered,
    up to a number that a person reads."""

    request: Request
    route: Route | None
    params: dict[str, str]
    verdicts: list[RouteVerdict]
    error: GatewayError | None
    spellings: list[str] = []

    def __str__(self) -> str:
        if self.route is not None:
            parameters = "".join(f", {name} = {quote(value)}" for name, value in self.params.items())
            lines = [f'route "{self.route.name}"{parameters}']
        else:
            lines = [f"no route: {self.error.status if self.error else 404} {self.error}"]
        lines += [f"  {line}" for line in self.spellings[:MOST_SHOWN]]
        lines += [f"  {route.name}: {verdict}" for route, verdict in self.verdicts[:MOST_SHOWN]]
        if len(self.verdicts) > MOST_SHOWN:
            lines.append(f"  and {len(self.verdicts) - MOST_SHOWN} more")
        return "\n".join(lines)


def _mismatch(entry: RouteCandidate[T], host_matches: bool, request: Request, facts: Facts) -> str:
    """Why a route whose path matches does not match the request; empty when it does."""
    methods, method = entry.route.methods, request.method
    reasons = []
    if not host_matches:
        reasons.append(f"the host is {host_of(request.host) or 'missing'}, not {entry.route.host}")
    if methods is not None and method not in methods and not (method == "HEAD" and "GET" in methods):
        reasons.append(f"the method is {method}, not {' or '.join(methods)}")
    for condition in entry.conditions:
        value = facts.value(condition.kind, condition.name)
        if value is None:
            reasons.append(f"{condition} is missing")
        elif condition.value is not None and value != condition.value:
            reasons.append(f'{condition} is "{as_text(value)}", not "{as_text(condition.value)}"')
    return "; ".join(reasons)


def _less_specific(entry: RouteCandidate[T], winner: RouteCandidate[T], method: str) -> str:
    """Why ``entry`` is less specific than ``winner``."""
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
