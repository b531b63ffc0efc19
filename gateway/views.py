"""Target: a Flask view answers; and Flask's URL rules as routes of the gateway's one table.

A rule such as ``/users/<int:id>`` becomes the route ``/users/{id:int}``, so that "most specific wins" holds between views and
declared routes alike, and a catch-all to the old application does not hide a view. A declared route with ``view = true`` gives
its steps to the views it covers; what Flask then does is ordinary dispatch.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from werkzeug.routing import Rule

from .config import Route
from .errors import DeadlineExceeded
from .message import Body, Request, Response
from .tasks import current_request

SMALL = 65536
NAME = re.compile(r"\{[^:}]+")
VARIABLE = re.compile(r"<(?:(?P<kind>\w+)(?:\([^<>]*\))?:)?(?P<name>\w+)>")


class View:
    """``wsgi`` is Flask's own application. The view runs until the request's deadline; its streamed body is not bounded by it."""

    def __init__(self, wsgi: Callable[..., Iterable[bytes]], name: str = "") -> None:
        self.wsgi = wsgi
        self.name = name

    def __call__(self, request: Request) -> Response:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            started[:] = status, headers
            return refuse_write

        token: Any = current_request.set(request)
        left = request.deadline.left()
        try:
            with gevent.Timeout(left, DeadlineExceeded(f"the view ran for the whole {request.deadline.seconds:g} s")):
                result = self.wsgi(environ_of(request), start_response)
                status, headers = started
                if body_length(headers) <= SMALL or request.method == "HEAD":
                    body: Any = joined(result)
                else:
                    body = ViewBody(result, token)
                    token = None
        finally:
            if token is not None:
                current_request.reset(token)
        code, _, reason = status.partition(" ")
        return Response(int(code), headers, body, reason)

    def __repr__(self) -> str:
        return f"view {self.name}".rstrip()


class ViewBody:
    """A view's body while it is sent: the request stays the current one until it is closed."""

    def __init__(self, result: Iterable[bytes], token: Any) -> None:
        self._result = result
        self._token = token

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._result)

    def close(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            current_request.reset(token)
            close = getattr(self._result, "close", None)
            if close is not None:
                close()


class BodyFile(io.RawIOBase):
    """A request's body as the file WSGI wants, so that limits and buffering of the steps hold for views too."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._body.read(len(buffer))
        buffer[:len(piece)] = piece
        return len(piece)


def environ_of(request: Request) -> dict[str, Any]:
    """The environ for Flask: what is believed of the client, the body through the steps, and the request's id."""
    environ = request.environ
    if environ is None:
        environ = request.environ = request.connection.environ(request)
    environ["REMOTE_ADDR"] = request.client
    environ["wsgi.url_scheme"] = request.scheme
    if request.host:
        environ["HTTP_HOST"] = request.host
    environ["HTTP_X_REQUEST_ID"] = request.id
    environ["gateway.request"] = request
    if request.body is not None:
        environ["wsgi.input"] = io.BufferedReader(BodyFile(request.body))
        environ["wsgi.input_terminated"] = True
    return environ


def joined(result: Iterable[bytes]) -> bytes:
    """The whole of a small body; its iterable is closed."""
    try:
        return b"".join(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()


def body_length(headers: list[tuple[str, str]]) -> int:
    """The Content-Length among ``headers``, or more than small when there is none."""
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value)
    return SMALL + 1


def refuse_write(_: bytes) -> None:
    """The write callable of PEP 3333, which Flask never uses."""
    raise NotImplementedError("return the body instead of writing it")


def route_of(rule: Rule) -> list[Route]:
    """The routes of one Flask rule: two when it ends in a slash, since Flask answers the path without it too.

    A segment that Flask knows only in part (``<name>.json``, a UUID) becomes a whole ``{name}``: it may then take a path that
    Flask answers with 404, which a declared route for that path prevents.
    """
    path = pattern_of(rule.rule)
    paths = [path] if not path.endswith("/") or path == "/" else [path, path[:-1]]
    methods = tuple(sorted(rule.methods)) if rule.methods else None
    return [Route(path=each, methods=methods, view=True) for each in paths]


def pattern_of(rule: str) -> str:
    """A Flask rule in the gateway's notation: ``/a/<int:x>`` is ``/a/{x:int}``; a path converter takes all that follows."""
    segments = []
    for segment in rule.split("/"):
        match = VARIABLE.search(segment)
        if match is None:
            segments.append(segment)
            continue
        kind, name = match["kind"], match["name"]
        segments.append("{%s%s}" % (name, {"int": ":int", "path": ":path"}.get(kind, "") if match[0] == segment else ""))
        if kind == "path":
            break
    return "/".join(segments)


def covers(wide: str, narrow: str) -> bool:
    """Does the pattern ``wide`` match every path that ``narrow`` matches?"""
    left, right = wide.split("/"), narrow.split("/")
    for position, piece in enumerate(left):
        if piece == "*" or piece.endswith(":path}"):
            return len(right) > position
        if position >= len(right):
            return False
        other = right[position]
        if piece.startswith("{") and not piece.endswith(":int}"):
            if other.endswith(":path}") or other in ("*", ""):
                return False
        elif piece.startswith("{"):
            if not (other.endswith(":int}") or other.isdigit()):
                return False
        elif piece != other:
            return False
    return len(left) == len(right)


def undeclared(rules: Iterable[Rule], declared: Iterable[Route]) -> list[Route]:
    """Routes for the views that no declared ``view`` route covers, each with the methods that are left to it.

    Two rules that are one pattern here (``/f/<name>.json`` and ``/f/<name>.xml``) make one route: Flask tells them apart.
    """
    given = [route for route in declared if route.view and not route.host and not (route.header or route.query or route.cookie)]
    found: dict[str, tuple[Route, set[str]]] = {}
    for rule in rules:
        for route in route_of(rule):
            methods = set(route.methods or ())
            for wide in given:
                if covers(wide.path, route.path):
                    methods -= set(wide.methods) if wide.methods else methods
            found.setdefault(NAME.sub("{", route.path), (route, set()))[1].update(methods)
    return [route.model_copy(update={"methods": tuple(sorted(methods))}) for route, methods in found.values() if methods]


def without_view(rules: Iterable[Rule], declared: Iterable[Route]) -> list[Route]:
    """The declared ``view`` routes that no Flask rule can answer."""
    paths = [route.path for rule in rules for route in route_of(rule)]
    return [route for route in declared if route.view
            and not any(covers(route.path, path) or covers(path, route.path) for path in paths)]
