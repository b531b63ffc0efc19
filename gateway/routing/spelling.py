"""The readings of a path: what servers behind may take one and the same path for. Pure.

A path goes on byte for byte, and each server behind has its own idea of what it folds. So a path has *readings*: the first is the
path as it came, the others are what becomes of it by these folds, each applied or not, in any order, so that a chain of servers
that fold differently is covered too:

================  =======================================================================
decode            ``%2e`` is ``.``, ``%61`` is ``a``; once: ``%252e`` is ``%2e``
slashes           an encoded slash, ``%2F``, is a slash
backslashes       ``\\`` and ``%5C`` are slashes
parameters        ``;`` and what follows in a segment goes: ``/admin;x=1``, ``/..;/admin``
empty segments    ``//`` is ``/``
dot segments      ``.`` and ``..`` are resolved (RFC 3986 section 5.2.4)
NUL               ``%00`` ends the path, as in C
network path      ``//host/admin`` is ``/admin``, to what takes it for a URL without scheme (PHP's parse_url)
================  =======================================================================

Not folded: a second decoding, overlong UTF-8, upper and lower case of letters, a slash at the end. A path without any of the marks
in ``RESPELLING`` has one reading, which one look at it shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import InvalidTarget
from .conditions import decode

RESPELLING = re.compile(r"[;\\]|//|/\.\.?(?:[/;]|$)|%(?:00|2[EeFf]|3[Bb]|5[Cc])")
MOST = 20_000                   # segments of all readings together: 10 ms; an honest path needs some dozens

Segments = tuple[str, ...]


def readings(path: str) -> list[list[str]]:
    """The decoded segments of each reading of a raw path that begins with a slash, each once, the path as it came first.
    Raises InvalidTarget for a path with too many."""
    raw: Segments = tuple(path.split("/")[1:])
    states = {(False, raw): None}                            # has it been decoded, and what is it now; a dict keeps the order
    waiting, size = [(False, raw)], len(raw)
    while waiting:
        is_decoded, segments = waiting.pop()
        following = [(is_decoded, fold(segments)) for fold in FOLDS]
        if not is_decoded:
            following.append((True, _decode(segments)))
        for state in following:
            if state not in states:
                states[state] = None
                waiting.append(state)
                size += len(state[1])
                if size > MOST:
                    raise InvalidTarget("the path can be read in too many ways")
    return [list(segments) for segments in dict.fromkeys(
        segments if is_decoded else _decode(segments) for is_decoded, segments in states)]


def _decode(segments: Segments) -> Segments:
    return tuple(map(decode, segments))


def _split(segments: Segments, mark: str) -> Segments:
    return tuple(piece for segment in segments for piece in segment.split(mark)) if any(mark in each for each in segments) \
        else segments


def _slashes(segments: Segments) -> Segments:
    return _split(segments, "/")


def _backslashes(segments: Segments) -> Segments:
    return _split(segments, "\\")


def _parameters(segments: Segments) -> Segments:
    return tuple(segment.partition(";")[0] for segment in segments)


def _empty(segments: Segments) -> Segments:
    return (*filter(None, segments[:-1]), segments[-1])


def _dots(segments: Segments) -> Segments:
    rest: list[str] = []
    for segment in segments:
        if segment == "..":
            del rest[-1:]
        elif segment != ".":
            rest.append(segment)
    return (*rest, "") if segments[-1] in (".", "..") else tuple(rest)


def _nul(segments: Segments) -> Segments:
    for position, segment in enumerate(segments):
        if "\0" in segment:
            return (*segments[:position], segment.partition("\0")[0])
    return segments


def _network(segments: Segments) -> Segments:
    return segments if segments[0] or len(segments) < 2 else segments[2:] or ("",)


FOLDS: tuple[Callable[[Segments], Segments], ...] = (_slashes, _backslashes, _parameters, _empty, _dots, _nul, _network)
