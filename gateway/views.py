"""Target: a Flask view answers; and Flask's URL rules as routes of the gateway's one table.

A rule such as ``/users/<int:id>`` becomes the route ``/users/{id:int}``, so that "most specific wins" holds between views and
declared routes alike, and a catch-all to the old application does not hide a view. A declared route with ``view = true`` gives
its steps to the views it covers; what Flask then does is ordinary dispatch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from operator import ge
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, Map, PathConverter, Rule
from werkzeug.routing.rules import parse_converter_args

from .config import Route
from .errors import with_cause
from .http.fields import WRITTEN
from .http.grammar import BODILESS
from .message import NextHop, Request, Response
from .routing.conditions import as_text, decode
from .routing.pattern import Segment, parse_path
from .tasks import Guard, Killed, current_request
from .wsgi import environ_of

SMALL = 65536
SILENCE = 30.0                  # seconds, where nothing else is said
WRONG_LENGTH = "the view's body has {} bytes or more where its Content-Length is {}"
STATUS = re.compile(r"([1-9][0-9]{2})(?: ([ \t\x21-\x7e\x80-\xff]*))?")
NAME = re.compile(r"\{[^:}]+")
VARIABLE = re.compile(r"<(?:(?P<kind>\w+)(?:\((?P<args>[^<>]*)\))?:)?(?P<name>\w+)>")


class View:
    """``wsgi`` is Flask's own application. The view runs until the request's deadline (``tasks.Guard``). The time it waits for the
    client's body does not count, nor is its own body bounded by it when that is streamed. ``silence``: the longest of the client
    while its body is read, in seconds. ``rules``: those of Flask, for ``gateway explain``."""

    def __init__(self, wsgi: Callable[..., Iterable[bytes]], name: str = "", silence: float = SILENCE,
                 rules: Map | None = None) -> None:
        self.wsgi = wsgi
        self.name = name
        self.silence = silence
        self.rules = rules

    def __call__(self, request: Request) -> Response:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            head[:] = status, headers
            return refuse_write

        token: Any = current_request.set(request)
        try:
            with Guard(request.deadline) as guard:
                result = self.wsgi(environ_of(request, guard, self.silence), start_response)
                status, headers = head
                code, reason, length = sendable(status, headers, result)
                if request.method == "HEAD" or code in BODILESS:
                    body: Any = join_body(result, None)         # Flask's own is empty then
                elif length is not None and length <= SMALL:
                    body = join_body(result, length)
                else:
                    body, token = ViewBody(result, token, length), None
                    body.begin()
        except BaseException as error:
            if isinstance(error, (Exception, Killed)):
                raise
            raise with_cause(RuntimeError(f"the view ended with {type(error).__name__}"), error)     # sys.exit() ends no worker
        finally:
            if token is not None:
                current_request.reset(token)
        return Response(code, headers, body, reason)

    def destinations(self, request: Request) -> Iterator[NextHop]:
        if self.rules is not None:
            yield NextHop(f"endpoint: {endpoint_of(self.rules, request)}")

    def __repr__(self) -> str:
        return f"view {self.name}".rstrip()


class ViewBody:
    """A view's body while it is sent: the request stays the current one until it is closed. Raises ValueError when it is not of
    the ``length`` that was announced, if any."""

    def __init__(self, result: Iterable[bytes], token: Any, length: int | None) -> None:
        self._result = result
        self._token = token
        self._pieces = iter(result) if length is None else exactly(length, result)

    def begin(self) -> None:
        """Wait for the first piece, with which the head goes out: until it is there, a failure is an ordinary one."""
        try:
            first = next(self._pieces, b"")
        except BaseException:
            self.close()
            raise
        self._pieces = chain((first,), self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            current_request.reset(token)
            close(self._result)


def join_body(result: Iterable[bytes], length: int | None) -> bytes:
    """The whole of a small body; its iterable is closed. Raises ValueError when it is not of the ``length`` announced."""
    try:
        body = b"".join(result)
    finally:
        close(result)
    if length is not None and length != len(body):
        raise ValueError(WRONG_LENGTH.format(len(body), length))
    return body


def exactly(length: int, result: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a body. Raises ValueError for one that is not of the ``length`` announced."""
    size = 0
    for piece in result:
        size += len(piece)
        if size > length:
            break
        yield piece
    if size != length:
        raise ValueError(WRONG_LENGTH.format(size, length))


def close(result: Iterable[bytes]) -> None:
    """Close the body of a WSGI answer, after its use or instead of it (PEP 3333)."""
    closing = getattr(result, "close", None)
    if closing is not None:
        closing()


def sendable(status: str, headers: list[tuple[str, str]], result: Iterable[bytes]) -> tuple[int, str, int | None]:
    """Status, reason and Content-Length, when they and the fields can be written as HTTP. Raises ValueError otherwise, so that this
    answer fails here, with a log line; ``result`` is then closed."""
    try:
        for field in headers:
            WRITTEN[field]
        return *status_of(status), length_of(headers)
    except BaseException:
        close(result)
        raise


@lru_cache(maxsize=256)
def status_of(status: str) -> tuple[int, str]:
    """The code and the reason of a status line. Raises ValueError, for an interim status too: more would have to follow."""
    match = STATUS.fullmatch(status)
    if match is None or status < "2":
        raise ValueError(f"the view's status {status!r} is no HTTP status")
    return int(match[1]), match[2] or ""


def length_of(headers: list[tuple[str, str]]) -> int | None:
    """The Content-Length among ``headers``, None when there is none. Raises ValueError for one that is no length, or another."""
    length = None
    for name, value in headers:
        if name.lower() == "content-length":
            if not value.isascii() or not value.isdigit() or len(value) > 18 or length not in (None, int(value)):
                raise ValueError(f"the view's Content-Length {value!r} is no length, or not the only one")
            length = int(value)
    return length


def refuse_write(_: bytes) -> None:
    """The write callable of PEP 3333, which Flask never uses."""
    raise NotImplementedError("return the body instead of writing it")


def route_of(rule: Rule) -> list[Route]:
    """The routes of one Flask rule: two when it ends in a slash, since Flask answers the path without it too, and when it is not
    strict about slashes.

    A segment of which Flask takes only some (a UUID, a float) becomes ``{name}``: it may then take a path that Flask answers with
    404, which a declared route for that path prevents.
    """
    path = pattern_of(rule)
    paths = [path]
    if path.endswith("/") and path != "/":
        paths.append(path[:-1])
    elif rule.strict_slashes is False and not path.endswith(("/", ":path}")):
        paths.append(path + "/")
    methods = tuple(sorted(rule.methods)) if rule.methods else None
    return [Route(path=each, methods=methods, view=True) for each in paths]


def pattern_of(rule: Rule) -> str:
    """A Flask rule in the gateway's notation: ``/a/<int:x>`` is ``/a/{x:int}``, ``/a/<name>.json`` is ``/a/{name}.json``; a
    converter whose values may have slashes takes all that follows, but for Flask's own ``path``, which a rule may go on behind."""
    pieces = rule.rule.split("/")
    segments = []
    for position, segment in enumerate(pieces):
        variables = list(VARIABLE.finditer(segment))
        converters = [converter_of(rule, variable) for variable in variables]
        if all(converter.part_isolating for converter in converters):
            segments.append(_segment(segment, variables, converters))
            continue
        segments.append("{%s:path}" % variables[0]["name"])
        behind = [variable for piece in pieces[position + 1:] for variable in VARIABLE.finditer(piece)]
        alone = variables[0][0] == segment and converters[0].regex == PathConverter.regex
        if not alone or not all(converter_of(rule, variable).part_isolating for variable in behind):
            break
    return "/".join(segments)


def _segment(segment: str, variables: list[re.Match[str]], converters: list[BaseConverter]) -> str:
    """One segment of a rule. It takes what Flask takes, or more."""
    if len(variables) == 1 and converters[0].regex == r"\d+":
        return VARIABLE.sub("{%s:int}" % variables[0]["name"], segment)
    if any(one.end() == other.start() for one, other in zip(variables, variables[1:])):
        return "{%s}" % variables[0]["name"]                 # nothing says where the one ends
    return VARIABLE.sub(r"{\g<name>}", segment)


def converter_of(rule: Rule, variable: re.Match[str]) -> BaseConverter:
    """The Flask converter of a variable, also one of the application's own."""
    arguments, options = parse_converter_args(variable["args"]) if variable["args"] else ((), {})
    return rule.get_converter(variable["name"], variable["kind"] or "default", arguments, options)


def endpoint_of(rules: Map, request: Request) -> str:
    """The Flask endpoint for a request, or Flask's error without one."""
    try:
        return str(rules.bind("localhost").match(as_text(decode(request.path)), request.method)[0])
    except HTTPException as error:
        return f"none, Flask answers {error.code}"


def covers(wide: str, narrow: str) -> bool:
    """Does the pattern ``wide`` match every path that ``narrow`` matches? Invalid ones are reported elsewhere."""
    try:
        left, right = parse_path(wide), parse_path(narrow)
    except ValueError:
        return False
    for position, piece in enumerate(left):
        if piece.kind == "rest":
            return len(right) > position
        if piece.kind == "middle":
            middle, right = right[position:-piece.after], right[-piece.after:]
            left = left[position + 1:]
            return bool(middle) and middle[0] != Segment("text", "") and all(map(_takes, left, right))
        if position >= len(right) or not _takes(piece, right[position]):
            return False
    return len(left) == len(right)


def _takes(wide: Segment, narrow: Segment) -> bool:
    """covers, for one segment that is no ``rest``."""
    if narrow.kind in ("middle", "rest"):
        return False
    if wide.mixed is not None and narrow.mixed is not None:
        return wide.mixed.texts == narrow.mixed.texts and all(map(ge, narrow.mixed.digits, wide.mixed.digits))
    if wide.kind == "name":
        return narrow != Segment("text", "")
    if narrow.kind == "text" and wide.kind != "text":
        return wide.mixed.values(narrow.text) is not None if wide.mixed is not None else narrow.text.isdigit()
    return wide.kind == narrow.kind and (wide.kind != "text" or wide.text == narrow.text)


def undeclared_routes(rules: Iterable[Rule], declarations: Iterable[Route]) -> list[Route]:
    """Routes for the views that no declared ``view`` route covers, each with the methods that are left to it.

    Two rules that are one pattern here (``/f/<name>`` and ``/f/<uuid:id>``) make one route: Flask tells them apart.
    """
    wide_routes = [route for route in declarations
                   if route.view and not route.host and not (route.header or route.query or route.cookie)]
    by_pattern: dict[str, tuple[Route, set[str]]] = {}
    for rule in rules:
        for route in route_of(rule):
            methods = set(route.methods or ())
            for wide in wide_routes:
                if covers(wide.path, route.path):
                    methods -= set(wide.methods) if wide.methods else methods
            by_pattern.setdefault(NAME.sub("{", route.path), (route, set()))[1].update(methods)
    return [route.model_copy(update={"methods": tuple(sorted(methods))}) for route, methods in by_pattern.values() if methods]


def without_view(rules: Iterable[Rule], declarations: Iterable[Route]) -> list[Route]:
    """The declared ``view`` routes that no Flask rule can answer."""
    paths = [route.path for rule in rules for route in route_of(rule)]
    return [route for route in declarations if route.view
            and not any(covers(route.path, path) or covers(path, route.path) for path in paths)]
