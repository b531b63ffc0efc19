"""The tree of segments in which the routes of one host are found. Pure.

A node is a place between two slashes. It has children by text, some for text with parameters, one for ``{name:int}``, one for
``{name}``, and some for ``{name:path}`` with segments behind it, by their number; and it may end a route. They are tried in this
order, and when what a child leads to does not match, the next is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from ..config import Route
from .conditions import Facts, as_text, condition_rank, conditions_of, decode
from .pattern import MixedSegment, Segment, parse_path
from .spelling import RESPELLING

T = TypeVar("T")
SPECIAL = re.compile(f"%|{RESPELLING.pattern}")              # what keeps a path from being compared as a whole


class RouteCandidate(Generic[T]):
    """One route with its target, and where in the path its parameters are."""

    __slots__ = ("route", "target", "segments", "conditions", "captures", "mixed", "several", "is_plain")

    def __init__(self, route: Route, target: T) -> None:
        self.route = route
        self.target = target
        self.segments = parse_path(route.path)
        self.conditions = conditions_of(route)
        self.captures = tuple((index, segment.text) for index, segment in _indexes(self.segments)
                              if segment.kind in ("int", "name"))
        self.mixed = tuple((index, segment.mixed) for index, segment in _indexes(self.segments) if segment.mixed is not None)
        self.several = next(((segment.text, slice(index, -segment.after or None)) for index, segment in enumerate(self.segments)
                             if segment.kind in ("middle", "rest") and segment.text), None)
        self.is_plain = not (self.captures or self.mixed or self.several)

    def params(self, segments: list[str]) -> dict[str, str]:
        values = {name: as_text(segments[index]) for index, name in self.captures}
        for index, mixed in self.mixed:
            values.update(zip(mixed.names, map(as_text, mixed.values(segments[index]) or ())))
        if self.several is not None:
            name, those = self.several
            values[name] = as_text("/".join(segments[those]))
        return values

    def __repr__(self) -> str:
        return f"RouteCandidate({self.route.name})"


def _indexes(segments: tuple[Segment, ...]) -> Iterator[tuple[int, Segment]]:
    """The segments of a pattern, each with its place in a path: behind one that takes several, counted from the end."""
    behind = False
    for index, segment in enumerate(segments):
        yield index - len(segments) if behind else index, segment
        behind = behind or segment.kind == "middle"


class Leaf(Generic[T]):
    """The routes of one pattern: they differ in methods and conditions."""

    __slots__ = ("entries", "by_method", "others")

    def __init__(self) -> None:
        self.entries: list[RouteCandidate[T]] = []
        self.by_method: dict[str, tuple[RouteCandidate[T], ...]] = {}
        self.others: tuple[RouteCandidate[T], ...] = ()

    def seal(self) -> None:
        """Sort, and build the list of candidates for each method."""
        self.entries.sort(key=lambda entry: condition_rank(entry.route))
        self.others = tuple(entry for entry in self.entries if entry.route.methods is None)
        methods = {method for entry in self.entries for method in entry.route.methods or ()}
        for method in methods | {"HEAD"} if "GET" in methods else methods:
            explicit = [entry for entry in self.entries if method in (entry.route.methods or ())]
            implicit = [entry for entry in self.entries if method == "HEAD" and entry not in explicit
                        and "GET" in (entry.route.methods or ())]
            self.by_method[method] = (*explicit, *implicit, *self.others)

    def first(self, facts: Facts) -> RouteCandidate[T] | None:
        """The most specific route that matches the method and the conditions."""
        for entry in self.by_method.get(facts.request.method, self.others):
            if not entry.conditions or facts.hold(entry.conditions):
                return entry
        return None

    def candidates(self, method: str) -> list[RouteCandidate[T]]:
        """All entries, those for ``method`` first and in their order."""
        matches = self.by_method.get(method, self.others)
        return [*matches, *(entry for entry in self.entries if entry not in matches)]


NOTHING: dict[str, Any] = {}


class TreeNode(Generic[T]):
    """A place between two slashes, with what may follow there."""

    __slots__ = ("text", "mixed", "integer", "name", "middle", "rest", "leaf")

    def __init__(self) -> None:
        self.text: dict[str, TreeNode[T]] = NOTHING              # its own once there is something
        self.mixed: MixedChildren[T] | None = None
        self.integer: TreeNode[T] | None = None
        self.name: TreeNode[T] | None = None
        self.middle: tuple[tuple[int, TreeNode[T]], ...] = ()
        self.rest: Leaf[T] | None = None
        self.leaf: Leaf[T] | None = None

    def child(self, segment: Segment) -> TreeNode[T]:
        """The node for a segment, created when missing."""
        if segment.kind == "text":
            if self.text is NOTHING:
                self.text = {}
            return self.text.setdefault(segment.text, TreeNode())
        if segment.kind == "int":
            self.integer = self.integer or TreeNode()
            return self.integer
        if segment.kind == "name":
            self.name = self.name or TreeNode()
            return self.name
        if segment.mixed is not None:
            self.mixed = self.mixed or MixedChildren()
            return self.mixed.child(segment.mixed)
        node = dict(self.middle).get(segment.after) or TreeNode()
        self.middle = tuple(sorted({**dict(self.middle), segment.after: node}.items(), reverse=True))
        return node


class MixedChildren(Generic[T]):
    """The children of a node for text with parameters, found by the text at both ends of a segment: however many there are, a look
    into a dict for each pair of lengths."""

    __slots__ = ("lengths", "by_ends")

    def __init__(self) -> None:
        self.lengths: set[tuple[int, int]] = set()
        self.by_ends: dict[tuple[str, str], dict[tuple[Any, ...], tuple[MixedSegment, TreeNode[T]]]] = {}

    def child(self, mixed: MixedSegment) -> TreeNode[T]:
        first, last = mixed.texts[0], mixed.texts[-1]
        self.lengths.add((len(first), len(last)))
        return self.by_ends.setdefault((first, last), {}).setdefault(mixed.shape, (mixed, TreeNode()))[1]

    def matching(self, segment: str) -> list[TreeNode[T]]:
        """The nodes whose pattern matches the segment, in their order."""
        size, matches = len(segment), []
        for first, last in self.lengths:
            candidates = self.by_ends.get((segment[:first], segment[size - last:])) if first + last < size else None
            if candidates is not None:
                matches += [(shape, node) for shape, (mixed, node) in candidates.items() if mixed.values(segment) is not None]
        return [node for _, node in sorted(matches, key=lambda each: each[0])]


class HostTable(Generic[T]):
    """The routes of one host: ``None`` for those of any."""

    __slots__ = ("host", "static", "root", "leaves")

    def __init__(self, host: str | None) -> None:
        self.host = host
        self.static: dict[str, Leaf[T]] = {}
        self.root: TreeNode[T] = TreeNode()
        self.leaves: list[Leaf[T]] = []

    def add(self, entry: RouteCandidate[T]) -> None:
        node = self.root
        for segment in entry.segments:
            if segment.kind != "rest":
                node = node.child(segment)
        if entry.segments[-1].kind == "rest":
            leaf = node.rest = node.rest or self._leaf()
        else:
            leaf = node.leaf = node.leaf or self._leaf()
        leaf.entries.append(entry)
        path = "".join("/" + segment.text for segment in entry.segments)
        if all(segment.kind == "text" and "/" not in segment.text for segment in entry.segments) and not SPECIAL.search(path):
            self.static[path] = leaf

    def _leaf(self) -> Leaf[T]:
        self.leaves.append(Leaf())
        return self.leaves[-1]

    def seal(self) -> None:
        for leaf in self.leaves:
            leaf.seal()

    def leaves_for(self, segments: list[str]) -> Iterator[Leaf[T]]:
        """Every pattern that matches the path, the most specific first."""
        return _all(self.root, segments, 0)


def segments_of(path: str) -> list[str]:
    """The decoded segments of a raw path. An invalid path, like the ``*`` of OPTIONS, has none, which no pattern matches."""
    if "%" in path:
        segments = [decode(segment) for segment in path.split("/")]
    else:
        segments = path.split("/")
    if segments[0]:
        return []
    del segments[0]
    return segments


def find(node: TreeNode[T], segments: list[str], depth: int, facts: Facts) -> RouteCandidate[T] | None:
    """The first route of ``_all`` that matches the request; unrolled because it runs for every request."""
    if depth == len(segments):
        return node.leaf.first(facts) if node.leaf is not None and depth else None
    segment = segments[depth]
    child = node.text.get(segment)
    if child is not None and (entry := find(child, segments, depth + 1, facts)) is not None:
        return entry
    if segment:
        if node.mixed is not None:
            for child in node.mixed.matching(segment):
                if (entry := find(child, segments, depth + 1, facts)) is not None:
                    return entry
        child = node.integer
        if child is not None and segment.isascii() and segment.isdigit():
            if (entry := find(child, segments, depth + 1, facts)) is not None:
                return entry
        child = node.name
        if child is not None and (entry := find(child, segments, depth + 1, facts)) is not None:
            return entry
        for after, child in node.middle:
            if depth + after < len(segments) and (entry := find(child, segments, len(segments) - after, facts)) is not None:
                return entry
    return node.rest.first(facts) if node.rest is not None else None


def _all(node: TreeNode[T], segments: list[str], depth: int) -> Iterator[Leaf[T]]:
    if depth == len(segments):
        if node.leaf is not None and depth:
            yield node.leaf
        return
    segment = segments[depth]
    if segment in node.text:
        yield from _all(node.text[segment], segments, depth + 1)
    for child in node.mixed.matching(segment) if node.mixed is not None else ():
        yield from _all(child, segments, depth + 1)
    if node.integer is not None and segment.isascii() and segment.isdigit():
        yield from _all(node.integer, segments, depth + 1)
    if node.name is not None and segment:
        yield from _all(node.name, segments, depth + 1)
    for after, child in node.middle if segment else ():
        if depth + after < len(segments):
            yield from _all(child, segments, len(segments) - after)
    if node.rest is not None:
        yield node.rest
