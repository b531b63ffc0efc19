"""The request of a command line, and what a worker would read of it: for ``gateway explain``.

``build`` makes the request, ``receive`` writes its head as a client would send it and has the worker's own parser read it,
``own_answer`` calls the step ``accept``. So what is refused here a worker refuses, with the same status and code. The parser's
settings are those of ``gunicorn_conf.py``, which cannot be imported for them: it patches the process that imports it.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from urllib.parse import quote

from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import IterUnreader

from ..incoming.accept import Accept
from ..incoming.request import RequestFactory
from ..message import Request, Response
from ..server.gunicorn_request import GunicornRequest
from ..server.request_handler import REFUSALS
from ..wsgi import variables

SETTINGS = {"limit_request_line": 8190, "limit_request_field_size": 8190, "limit_request_fields": 100, "http_parser": "python",
            "permit_unconventional_http_method": True, "header_map": "refuse", "forwarder_headers": "", "forwarded_allow_ips": "",
            "secure_scheme_headers": {}}
NOBODY = "192.0.2.1"            # an address that no configuration trusts (RFC 5737)

URL = re.compile(r"(?:(https?)://([^/*?#]*))?([/*?][^#]*)?", re.IGNORECASE)
VISIBLE = "".join(map(chr, range(0x21, 0x7f)))          # what is sent as it is; the rest percent-encoded, as a browser does


def build(method: str, url: str, headers: tuple[str, ...]) -> Request:
    """The request that a client would send for ``url``: a whole one, or a path for a request without Host. ``receive`` checks
    whether a worker accepts it. Raises ValueError, with a sentence for the user."""
    if any(mark in text for mark in "\r\n" for text in (method, url, *headers)):
        raise ValueError("a line break is no part of a request")
    match = URL.fullmatch(url)
    if not match:
        raise ValueError(f"{url!r} is neither a URL nor a path")
    fields = []
    for header in map(as_latin1, headers):
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError(f"{header!r} has no colon")
        fields.append((name, value.strip(" \t")))
    host = next((value for name, value in fields if name.lower() == "host"), None)
    if host is None:
        host = as_latin1(match[2] or "")
        fields[:0] = [("Host", host)] if match[2] else []
    target = match[3] or "/"
    if target.startswith("?"):
        target = f"/{target}"
    return Request(as_latin1(method), quote(os.fsencode(target), safe=VISIBLE), fields, scheme=(match[1] or "http").lower(),
                   host=host)


def as_latin1(argument: str) -> str:
    """A command line argument as messages carry it: one character for each of its bytes."""
    return os.fsencode(argument).decode("latin-1")


def address_of(peer: str) -> str:
    """A peer's address as a worker sees it: an IP address, or empty for ``unix``. Raises ValueError for anything else."""
    try:
        return "" if peer == "unix" else str(ip_address(peer))
    except ValueError:
        raise ValueError(f"{peer!r} is neither an IP address nor unix") from None


def trust_text(request: Request) -> str:
    """Whether the peer is a trusted proxy, and what the gateway then takes from its header fields."""
    if not request.trusted:
        return "is not in gateway.trust: what it says of its client is not believed"
    port = f", port {request.port}" if request.port else ""
    return f"is trusted, and believed: client {request.client or 'unknown'}, {request.scheme}://{request.host}{port}"


def receive(request: Request, peer: str = NOBODY, trust: tuple[str, ...] = ()) -> Request:
    """The request as a worker reads it; without Host, an HTTP/1.0 one. ``peer`` is the address it comes from, empty for a unix
    socket; its X-Forwarded-* count when it is in ``trust``. Raises the GatewayError that the client gets."""
    config = Config()
    for name, value in SETTINGS.items():
        config.set(name, value)
    version = "1.1" if any(name.lower() == "host" for name, _ in request.headers) else "1.0"
    lines = [f"{request.method} {request.target} HTTP/{version}", *(f"{name}: {value}" for name, value in request.headers)]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    try:
        message = GunicornRequest(config, IterUnreader([head]), (peer, 0))
    except ParseException as error:
        raise next(kind for of, kind in REFUSALS if isinstance(error, of))(str(error)) from error
    incoming = RequestFactory(trust, request.deadline.seconds)
    address, is_proxy = incoming.trust.judge(peer)
    request = Request(message.method, message.uri, message.raw_headers, scheme=request.scheme, host=request.host, peer=address)
    request.environ, request.version = variables(message.raw_headers), version
    if is_proxy:
        request.trusted = True
        incoming.trust.believe(request)
    return request


def own_answer(request: Request) -> Response | None:
    """The gateway's own answer; None when the request goes on to the routes. Raises the GatewayError that the client gets."""
    beyond = Response(200, [])
    answer = Accept(lambda request: beyond)(request)
    return None if answer is beyond else answer
