"""The path an upstream is asked for, when it is not the client's: ``strip_prefix`` and ``rewrite``. Pure.

``strip_prefix`` takes as many segments off the raw path as the prefix has; what remains is sent byte for byte and starts with a
slash. It is the beginning of the route's own path, so whatever matched the route has it, in whichever encoding.

``rewrite`` is a template: ``/v2/users/{id}``. A parameter is percent-encoded again as one segment (RFC 3986 section 3.3), so a
slash the client encoded stays encoded; ``{rest:path}`` is put back byte for byte as the client sent it.

**Nothing climbs.** ``..`` segments are sent on, as they are to an upstream without any of this; but where a server resolves
them, they must not lead above what the prefix or the template's own beginning leaves. Such a path is InvalidTarget. Servers
differ in what they take for a dot segment, so everything is counted that some of them do: ``%2e%2e``, encoded slashes,
backslashes, ``..;x``, and ``//`` as one slash. A parameter of one segment may not be ``.`` either.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes

from ..config import Route
from ..errors import InvalidTarget
from .conditions import as_bytes, decode
from .pattern import parse_path

HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SEGMENT_SAFE = "-._~!$&'()*+,;=:@"
PATH_SAFE = SEGMENT_SAFE + "/%"


class Rewrite:
    """``rewrite(path, params) -> path``, both raw. ``params`` come from the match. Raises InvalidTarget."""

    __slots__ = ("text", "_depth", "_pieces", "_rest", "_rest_at", "_after", "_literal")

    def __init__(self, route: Route) -> None:
        self.text = f"strip {route.strip_prefix}" if route.strip_prefix else f"to {route.rewrite}"
        self._depth = prefix_depth(route.strip_prefix) if route.strip_prefix else 0
        pieces = HOLE.split(as_bytes(route.rewrite or ""))
        pieces[::2] = [quote_from_bytes(piece.encode("latin-1"), PATH_SAFE) for piece in pieces[::2]]
        self._pieces = pieces
        self._literal = pieces[0].rfind("/")
        segments = parse_path(route.path)
        self._rest, self._rest_at, self._after = next(
            ((segment.text, index, segment.after) for index, segment in enumerate(segments, 1)
             if segment.kind in ("middle", "rest")), ("", 0, 0))

    def __call__(self, path: str, params: dict[str, str]) -> str:
        if self._depth:
            rest = "/" + tail(path, self._depth + 1)
            if climbs(rest):
                raise InvalidTarget("the path climbs above the prefix of its route")
            return rest
        return self.fill(path, params)

    def fill(self, path: str, params: dict[str, str]) -> str:
        pieces = self._pieces.copy()
        for position in range(1, len(pieces), 2):
            name = pieces[position]
            whole = name == self._rest
            raw = middle(path, self._rest_at, self._after) if whole else encode_parameter(params[name])
            if climbs(raw) or raw == "." and not whole:
                raise InvalidTarget(f"{name} would not stay in its place in the path")
            pieces[position] = raw
        result = "".join(pieces)
        if climbs(result[self._literal:]):
            raise InvalidTarget("the path climbs above that of its route")
        return result

    def __repr__(self) -> str:
        return f"path: {self.text}"


def prefix_depth(prefix: str) -> int:
    """How many segments a prefix has; a slash at its end adds none."""
    return prefix.rstrip("/").count("/")


def tail(path: str, slashes: int) -> str:
    """What follows the given number of slashes: nothing, when there are fewer."""
    pieces = path.split("/", slashes)
    return pieces[slashes] if len(pieces) > slashes else ""


def middle(path: str, slashes: int, after: int) -> str:
    """What follows the given number of slashes, without the last ``after`` segments."""
    rest = tail(path, slashes)
    return rest.rsplit("/", after)[0] if after else rest


def encode_parameter(text: str) -> str:
    """A parameter, percent-encoded as one segment."""
    if text.isalnum() and text.isascii():
        return text
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), SEGMENT_SAFE)


def climbs(path: str) -> bool:
    """Do the dot segments of a raw path lead above where it starts?"""
    if ".." not in path and "%" not in path:
        return False
    depth = 0
    for segment in decode(path).replace("\\", "/").split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            depth -= 1
            if depth < 0:
                return True
        elif name and name != ".":
            depth += 1
    return False
