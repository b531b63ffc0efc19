"""The Request of what a server has read, whom to believe, and what is refused before any route is looked at.

``Incoming`` builds the Request and never fails; ``Accept`` is the step that refuses, inside ``observe``, so that refusals are
measured like everything else (RFC 9110 section 7, RFC 9112 section 3):

- CONNECT and TRACE (405), and request-targets that are neither origin-form nor http or https in absolute-form (``*`` only with
  OPTIONS). Of an absolute-form the authority takes the place of Host (RFC 9112 section 3.2.2), which must be there and valid all
  the same; from here on the request is the one in origin-form. Its scheme says nothing of the connection and is not believed;
- HTTP/1.1 without Host, and a Host that is no authority;
- a second Authorization: two callers in one request are an ambiguity somebody will exploit.

It answers one kind of request itself: OPTIONS that asks the gateway and not an application, by ``*`` or by ``Max-Forwards: 0``
(RFC 9110 sections 7.6.2 and 9.3.7). In other OPTIONS Max-Forwards is counted down.

**Trust.** The peer's address decides. A peer in ``trust`` (networks, or ``unix`` for unix sockets) is a proxy: its
X-Forwarded-For is walked from the right over the trusted addresses, and what stands at the place where the walk ends is the
client. Proto, Host and Port are read at the same distance from the right. Without X-Forwarded-* the standard Forwarded (RFC 7239)
is read in the same way. ``request.chain`` is the one of the two that was believed: the other may be anybody's, and goes no further.
What any other peer sends of these is ignored, and never reaches an upstream. An IPv4 address in IPv6 clothes (``::ffff:10.0.0.1``,
as a listener on ``[::]`` sees it) is that IPv4 address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from .deadline import Deadline
from .errors import DuplicateHeader, InvalidHost, InvalidTarget, MethodNotAllowed
from .http.fields import Kinds, one_cookie
from .message import METHODS, Handler, Headers, Request, Response
from .wsgi import body_of, edited_headers, edited_target, headers_of, target_of

HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(?::\d{0,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{0,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]*)((?:[/?][^#]*)?)", re.IGNORECASE)
TARGET = re.compile(r"/[^\x00-\x20#\x7f-\U0010ffff]*")
REMEMBERED = 4096
STAYS = frozenset({"close", "keep-alive", "connection", "upgrade", "te", "trailer", "transfer-encoding", "content-length", "host",
                   "expect", "content-type"})
UNUSUAL = frozenset({"CONNECT", "TRACE", "OPTIONS"})         # methods that are looked at before any route
ALLOW = ", ".join(METHODS)
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}      # a proxy may name a WebSocket's own

PAIR = r"""[\w!#$%&'*+.^`|~-]+=(?:[\w!#$%&'*+.^`|~:\[\]-]|"(?:[^"\\]|\\.)*")*"""
FORWARDED = re.compile(rf"[,; \t]*(?:{PAIR}(?:[,; \t]+{PAIR})*[,; \t]*)?", re.ASCII)
SAID = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded")
SAID_KINDS = Kinds({name: kind for kind, name in enumerate(SAID, 1)})


class Trust:
    """Is an address a trusted proxy? ``judge`` gives (the address in its normal form, the answer), ``verdicts`` caches it: the
    peers are few and always the same."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self.unix = "unix" in networks
        self.networks = [ip_network(network, strict=False) for network in networks if network != "unix"]
        self.verdicts: dict[str, tuple[str, bool]] = {}

    def __contains__(self, address: str) -> bool:
        return self.judge(address)[1]

    def judge(self, address: str) -> tuple[str, bool]:
        verdict = self.verdicts.get(address)
        if verdict is None:
            verdict = self._look(address)
            if len(self.verdicts) >= REMEMBERED:
                self.verdicts.clear()
            self.verdicts[address] = verdict
        return verdict

    def _look(self, address: str) -> tuple[str, bool]:
        if not address:
            return address, self.unix
        try:
            ip = ip_address(address)
        except ValueError:
            return address, False
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
            address = str(ip)
        return address, any(ip in network for network in self.networks)

    def __repr__(self) -> str:
        return f"Trust({', '.join(map(str, self.networks)) or 'nobody'}{', unix' if self.unix else ''})"


class Incoming:
    """``incoming(environ) -> Request``. ``timeout`` is the gateway's deadline in seconds; a route may set another.
    ``has_middleware``: one may have changed the environ, which then counts before what the connection received."""

    def __init__(self, trust: tuple[str, ...], timeout: float) -> None:
        self.trust = Trust(trust)
        self.timeout = timeout
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
        deadline = Deadline(self.timeout)
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
            self.believe(request)
        return request

    def plain(self, plain: Any, connection: Any, peer: str) -> Request:
        """The Request of what the fast lane has read. It has no environ until a target asks its connection for one."""
        peer, is_proxy = self.trust.verdicts.get(peer) or self.trust.judge(peer)
        request = Request(plain.method, plain.target, plain.headers, plain.body, host=plain.host, peer=peer,
                          deadline=Deadline(self.timeout))
        request.connection = connection
        if is_proxy:
            request.trusted = True
            self.believe(request)
        return request

    def believe(self, request: Request) -> None:
        """Take client, scheme, host and port from a trusted proxy's fields."""
        fields = [field for field in request.headers if SAID_KINDS[field[0]]]
        if not fields:
            return
        values_by_kind: list[list[str]] = [[], [], [], [], [], []]
        for name, value in fields:
            values_by_kind[SAID_KINDS[name]].append(value)
        chain, protos, hosts, ports = [_items(values) for values in values_by_kind[1:5]]
        name, values = "X-Forwarded-For", values_by_kind[1]
        if not (chain or protos or hosts or ports):
            name, values = "Forwarded", values_by_kind[5]
            chain, protos, hosts = _elements(values)
        if chain:
            request.chain = name, ", ".join(values)
        distance = 1
        for distance, address in enumerate(reversed(chain), 1):
            request.client, is_proxy = self.trust.judge(bare_address(address))
            if not is_proxy:
                break
        port = _at(ports, distance)
        if port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536:
            request.port = port
        request.scheme = SCHEMES.get(_at(protos, distance).lower(), request.scheme)
        host = _at(hosts, distance).removesuffix(":")
        if HOST.fullmatch(host):
            request.host = host

    def __repr__(self) -> str:
        return f"Incoming({self.trust!r}, deadline {self.timeout:g} s)"


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
            raise MethodNotAllowed([*METHODS])
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
            elif host and len(self._hosts) < REMEMBERED:
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


def take_absolute(request: Request, authority: str, rest: str) -> None:
    """Turn a request in absolute-form into origin-form. An invalid authority or Host is left for Accept to refuse."""
    host = request.host
    if not HOST.fullmatch(authority) or not (HOST.fullmatch(host) if host else request.version == "1.0"):
        return
    if not rest.startswith("/"):
        rest = "*" if request.method == "OPTIONS" and not rest else "/" + rest       # RFC 9112 section 3.2.4
    path, mark, query = rest.partition("?")
    request.target, request.path, request.query = rest, path, query if mark else None
    take_host(request, authority.removesuffix(":"))


def take_host(request: Request, host: str) -> None:
    """Set the host, and the Host field."""
    request.host = host
    request.headers = [field for field in request.headers if field[0].lower() != "host"]
    request.headers.insert(0, ("Host", host))


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
    options = {option.strip().lower() for value in request.header_list("Connection") for option in value.split(",")}
    names = options - STAYS - {""}
    if names:
        request.headers = [field for field in request.headers if field[0].lower() not in names]


def bare_address(value: str) -> str:
    """An address without port and brackets: ``[::1]:80`` and ``"[::1]:80"`` are ``::1``, ``10.0.0.1:80`` is ``10.0.0.1``."""
    value = value.strip('" ')
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0] if value.count(":") == 1 else value


def _items(values: list[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def _elements(values: list[str]) -> tuple[list[str], list[str], list[str]]:
    """for, proto and host of each element of Forwarded (RFC 7239 section 4), empty where missing; nothing when the field does not
    follow the grammar."""
    chains: tuple[list[str], list[str], list[str]] = ([], [], [])
    if not FORWARDED.fullmatch(", ".join(values)):           # an open quote would swallow what is added behind it
        return chains
    for element in _items(values):
        pairs = dict(pair.strip().partition("=")[::2] for pair in element.split(";"))
        parameters = {name.lower(): value.strip('"') for name, value in pairs.items()}
        for chain, name in zip(chains, ("for", "proto", "host")):
            chain.append(parameters.get(name, ""))
    return chains


def _at(values: list[str], distance: int) -> str:
    """The value ``distance`` places from the right, or the leftmost."""
    return values[-distance] if len(values) >= distance else values[0] if values else ""
