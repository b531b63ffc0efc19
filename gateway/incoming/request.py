"""The Request of what a server has read: from the environ of WSGI, or from the worker's fast lane. This never fails; what is to be
refused is refused by the step ``accept`` (accept.py).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from ..deadline import Deadline
from ..http.fields import one_cookie
from ..message import Request
from ..wsgi import body_of, edited_headers, edited_target, headers_of, target_of
from .host import ABSOLUTE, take_absolute
from .trust import Trust


class RequestFactory:
    """``incoming(environ) -> Request``. ``timeout`` is the gateway's deadline in seconds; a route may set another.
    ``has_middleware``: one may have changed the environ, which then counts before what the connection received."""

    def __init__(self, trust: tuple[str, ...], timeout: float, clock: Callable[[], float] = monotonic) -> None:
        self.trust = Trust(trust)
        self.timeout = timeout
        self.clock = clock
        self.has_middleware = False

    def __call__(self, environ: dict[str, Any]) -> Request:
        connection = environ.get("gateway.connection")
        headers = connection.headers if connection is not None else headers_of(environ)
        target = environ.get("RAW_URI") or target_of(environ)
        if self.has_middleware:
            target = edited_target(target, environ)
            if connection is not None:
                headers = edited_headers(headers, environ)
        if "," in environ.get("HTTP_COOKIE", ""):
            headers = one_cookie(headers)
        address = environ.get("REMOTE_ADDR", "")
        peer, is_proxy = self.trust.verdicts.get(address) or self.trust.judge(address)
        deadline = Deadline(self.timeout, self.clock)
        request = Request(environ["REQUEST_METHOD"], target, headers, body_of(environ, deadline),
                          scheme=environ["wsgi.url_scheme"], host=environ.get("HTTP_HOST", ""), peer=peer, deadline=deadline)
        request.environ = environ
        request.connection = connection
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            request.version = "1.0"
        if not target.startswith("/") and (absolute := ABSOLUTE.fullmatch(target)):
            take_absolute(request, *absolute.groups())
        if is_proxy:
            request.trusted = True
            self.trust.believe(request)
        return request

    def plain(self, plain: Any, connection: Any, peer: str) -> Request:
        """The Request of what the fast lane has read. It has no environ until a target asks its connection for one."""
        peer, is_proxy = self.trust.verdicts.get(peer) or self.trust.judge(peer)
        request = Request(plain.method, plain.target, plain.headers, plain.body, host=plain.host, peer=peer,
                          deadline=Deadline(self.timeout, self.clock))
        request.connection = connection
        if is_proxy:
            request.trusted = True
            self.trust.believe(request)
        return request

    def __repr__(self) -> str:
        return f"RequestFactory({self.trust!r}, deadline {self.timeout:g} s)"
