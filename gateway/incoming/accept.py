"""Step: what no route may see is refused, inside ``observe``, so that refusals are measured like everything else (RFC 9110 section
7, RFC 9112 section 3):

- CONNECT and TRACE (405), and request-targets that are neither origin-form nor http or https in absolute-form (``*`` only with
  OPTIONS). The authority of an absolute-form takes the place of Host (RFC 9112 section 3.2.2), which must be there and valid all
  the same; from here on the request is the one in origin-form. Its scheme says nothing of the connection and is not believed;
- HTTP/1.1 without Host, and a Host that is no authority;
- a second Authorization: two callers in one request are an ambiguity somebody will exploit.

It answers one kind of request itself: OPTIONS that asks the gateway and not an application, by ``*`` or by ``Max-Forwards: 0``
(RFC 9110 sections 7.6.2 and 9.3.7). In other OPTIONS Max-Forwards is counted down.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import DuplicateHeader, InvalidHost, InvalidTarget, MethodNotAllowed
from ..http.fields import nominations
from ..message import DEFAULT_METHODS, Handler, Headers, Request, Response
from .host import HOST, take_host

TARGET = re.compile(r"/[^\x00-\x20#\x7f-\U0010ffff]*")
MOST_HOSTS = 4096               # hosts
STAYS = frozenset({"close", "keep-alive", "connection", "upgrade", "te", "trailer", "transfer-encoding", "content-length", "host",
                   "expect", "content-type"})
UNUSUAL = frozenset({"CONNECT", "TRACE", "OPTIONS"})         # methods that are looked at before any route
ALLOW = ", ".join(DEFAULT_METHODS)


class Accept:
    """Step: refuse what no route may see. ``edit_of(request)`` is what the rules of a request's route make of the fields of an
    answer that is not the route's own."""

    def __init__(self, next: Handler,
                 edit_of: Callable[[Request], Callable[[Headers], Headers] | None] = lambda request: None) -> None:
        self.next = next
        self.edit_of = edit_of
        self._hosts: set[str] = set()                        # found valid before

    def __call__(self, request: Request) -> Response:
        unusual = request.method in UNUSUAL
        if unusual and request.method != "OPTIONS":
            raise MethodNotAllowed([*DEFAULT_METHODS])
        environ = request.environ                # None: from the fast lane, which has looked at the target and counted
        if environ is not None and not TARGET.fullmatch(request.target) and not (unusual and request.target == "*"):
            raise InvalidTarget("only a target that starts with / or is a URL of http or https is accepted")
        host = request.host
        if host not in self._hosts:
            if host and not HOST.fullmatch(host):
                raise InvalidHost("the Host is not a host name or an address with an optional port")
            if not host and request.version != "1.0":
                raise InvalidHost("the request has no Host")
            if host.endswith(":"):
                take_host(request, host[:-1])
            elif host and len(self._hosts) < MOST_HOSTS:
                self._hosts.add(host)
        if environ is not None and environ.get("HTTP_CONNECTION", "").lower() not in ("", "close", "keep-alive"):
            drop_nominated(request)
        if environ is not None and "," in environ.get("HTTP_AUTHORIZATION", ""):
            if len(request.header_list("Authorization")) > 1:
                raise DuplicateHeader("Authorization was sent more than once")
        if unusual and (request.target == "*" or _last_hop(request)):
            headers, edit = [("Allow", ALLOW), ("Content-Length", "0")], self.edit_of(request)
            return Response(200, edit(headers) if edit else headers)
        return self.next(request)

    def __repr__(self) -> str:
        return "accept: a path or a URL, one valid Host, one Authorization, no CONNECT or TRACE"


def _last_hop(request: Request) -> bool:
    """Is an OPTIONS to be answered here? Counts Max-Forwards down otherwise."""
    hops = request.header("Max-Forwards")
    if not hops.isascii() or not hops.isdigit() or len(hops) > 9:
        return False
    left = int(hops) - 1
    if left >= 0:
        request.headers = [(name, str(left) if name.lower() == "max-forwards" else value) for name, value in request.headers]
    return left < 0


def drop_nominated(request: Request) -> None:
    """Remove the fields that Connection nominates (RFC 9110 section 7.6.1), once for all steps: an answer must not be stored under
    a field that the upstream never saw. Fields of framing and of the connection itself stay."""
    nominated = nominations(request.headers) - STAYS
    if nominated:
        request.headers = [field for field in request.headers if field[0].lower() not in nominated]
