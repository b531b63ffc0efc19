"""Is a regular expression matched in linear time, whatever the text? Read from the pattern, without a clock.

A backtracking matcher takes more than linear time only where one text can be read in more ways the longer it gets. The pattern is
made an automaton whose states are its characters (Glushkov), an edge for each way from one to the next:

- **exponential**: from a state, two different paths lead back to it over one same text;
- **polynomial**: one same text leads from a loop to itself, from there to another loop, and from that to itself. A search begins
  with a loop over anything, so that a loop that may fail after every beginning counts too.

Where the matcher stops at the first success (``match``, ``search``), only what has not succeeded yet can be tried again. It errs on
the safe side: what looks around hinders nobody and lets nothing succeed, many repetitions are as many as you like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count, product
from typing import Any

try:
    from re import _compiler as compiler
    from re import _parser as parser
except ImportError:                                      # Python 3.10
    import sre_compile as compiler
    import sre_parse as parser

BYTES = [chr(code) for code in range(256)]
ALPHABET = [*BYTES, "\u0130", "\u0131", "\u017f", "\u0661", "\u212a", "\u3000", "\u4e00", "\U0001f600"]
SEARCHES = {"search", "finditer", "findall", "sub", "subn", "split", "scanner"}
NOTHING = {"AT", "ASSERT", "ASSERT_NOT"}
FEW = 8                         # repetitions that are written out


class Automaton:
    """``edges`` are, for each state, those that may follow, once for each way; ``takes`` what characters lead into one."""

    def __init__(self, pattern: re.Pattern[Any], certain: bool = False) -> None:
        self.certain = certain                           # is what looks around taken to fail?
        self.flags = pattern.flags & ~re.DEBUG
        self.letters = ALPHABET if isinstance(pattern.pattern, str) else [letter.encode("latin-1") for letter in BYTES]
        self.takes: list[frozenset[int]] = []
        self.edges: list[list[int]] = []
        self.state = parser.parse(pattern.pattern, self.flags)
        self.known: dict[str, frozenset[int]] = {}
        self.empty, self.first, self.last = self.sequence(self.state)

    def new(self, takes: frozenset[int]) -> int:
        self.takes.append(takes)
        self.edges.append([])
        return len(self.takes) - 1

    def join(self, ends: Iterable[int], begins: list[int]) -> None:
        for end in ends:
            self.edges[end] += begins

    def sequence(self, nodes: Iterable[Any]) -> tuple[bool, list[int], list[int]]:
        empty, first, last = True, [], []
        for operator, argument in nodes:
            may, begins, ends = self.node(str(operator), operator, argument)
            self.join(last, begins)
            first = first + begins if empty else first
            last = last + ends if may else ends
            empty = empty and may
        return empty, first, last

    def node(self, name: str, operator: Any, argument: Any) -> tuple[bool, list[int], list[int]]:
        if name in NOTHING:
            ended = str(argument) in ("AT_END", "AT_END_STRING") and not self.flags & re.MULTILINE
            return not (ended or self.certain), [], []
        if name == "SUBPATTERN":
            return self.sequence(argument[-1])
        if name == "BRANCH":
            parts = [self.sequence(each) for each in argument[1]]
            return any(part[0] for part in parts), [q for part in parts for q in part[1]], [q for part in parts for q in part[2]]
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, what = argument
            if 1 < int(most) <= FEW:
                return self.sequence([*[(operator, (1, 1, what))] * least, *[(operator, (0, 1, what))] * (most - least)])
            empty, first, last = self.sequence(what)
            if most != 1:
                self.join(last, first)
            return empty or not least, first, last
        if name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            state = self.new(self.members(operator, argument))
            return False, [state], [state]
        raise NotImplementedError(name)                      # back references, conditionals: not linear, or not understood

    def members(self, operator: Any, argument: Any) -> frozenset[int]:
        key = repr((operator, argument))
        if key not in self.known:
            one = parser.SubPattern(self.state.state, [(operator, argument)])
            atom = compiler.compile(one, self.flags)
            self.known[key] = frozenset(number for number, letter in enumerate(self.letters) if atom.fullmatch(letter))
        return self.known[key]


def reached(start: Any, step: Any) -> set[Any]:
    """What can be reached in one step or more."""
    seen: set[Any] = set()
    waiting = list(step(start))
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting += step(state)
    return seen


def superlinear(pattern: re.Pattern[Any], methods: Iterable[str] = ("search",)) -> str:
    """How a pattern used by these methods is not linear, or nothing."""
    automaton = Automaton(pattern)
    methods = set(methods)
    found = []
    if methods & SEARCHES:
        start = automaton.new(frozenset(range(len(automaton.letters))))
        automaton.edges[start] = [start, *automaton.first]
    final = set(Automaton(pattern, certain=True).last)
    whole = methods == {"fullmatch"}
    everything = frozenset(range(len(automaton.letters)))
    # What has succeeded is not tried again; of the whole text, that is what takes whatever comes.
    done = {q for q in final if not whole or (automaton.takes[q] == everything and q in automaton.edges[q])}
    edges = [[] if q in done else [each for each in following if each not in done] for q, following in enumerate(automaton.edges)]
    loops = {q: circle for q in range(len(edges)) if q in (circle := reached(q, edges.__getitem__))}
    found += exponential(automaton, edges, loops)
    found += polynomial(automaton, edges, loops)
    return "; ".join(found)


def exponential(automaton: Automaton, edges: list[list[int]], loops: dict[int, set[int]]) -> Iterator[str]:
    for q, circle in loops.items():
        inside = {each for each in circle if q in reached(each, edges.__getitem__) or each == q}
        if any(edges[each].count(other) > 1 for each in inside for other in inside):
            yield f"exponential: one loop inside another, at {q}"
            return

        def step(pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
            for one, other in product(edges[pair[0]], edges[pair[1]]):
                if one in inside and other in inside and automaton.takes[one] & automaton.takes[other]:
                    yield one, other

        for pair in reached((q, q), step):
            if pair[0] != pair[1] and (q, q) in reached(pair, step):
                yield f"exponential: two ways around from {q}"
                return


def polynomial(automaton: Automaton, edges: list[list[int]], loops: dict[int, set[int]]) -> Iterator[str]:
    takes, numbers = automaton.takes, count()
    for p, q in product(loops, repeat=2):
        if p == q or q not in loops[p]:
            continue

        def step(triple: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
            for one, two, three in product(*(edges[each] for each in triple)):
                if one in loops and p in loops[one] and three in loops and q in loops[three]:
                    if takes[one] & takes[two] & takes[three]:
                        yield one, two, three

        if (p, q, q) in reached((p, p, q), step):
            yield f"polynomial: the text of the loop at {q} may begin anywhere in that at {p}"
            if next(numbers) > 2:
                return
