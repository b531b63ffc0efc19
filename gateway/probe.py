"""What becomes of a request that a person describes, before any route is looked at: for ``gateway explain``.

``read`` writes its head as a client would send it and has the worker's own parser read it, ``own_answer`` asks ``accept``. So what
is refused here a worker refuses, with the same status and code. The parser's settings are those of ``gunicorn_conf.py``, which
cannot be imported for them: it patches the process that imports it.
"""

from __future__ import annotations

from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import IterUnreader

from . import reader
from .connections import REFUSALS
from .incoming import Accept
from .message import Request, Response

SETTINGS = {"limit_request_line": 8190, "limit_request_field_size": 8190, "limit_request_fields": 100, "http_parser": "python",
            "permit_unconventional_http_method": True, "header_map": "refuse", "forwarder_headers": "", "forwarded_allow_ips": "",
            "secure_scheme_headers": {}}
NOBODY = ("192.0.2.1", 0)       # the client's address, which no configuration trusts (RFC 5737)


def read(described: Request) -> Request:
    """The request that a worker has of it: without Host an HTTP/1.0 one. Raises the GatewayError that its client gets."""
    config = Config()
    for name, value in SETTINGS.items():
        config.set(name, value)
    version = "1.1" if any(name.lower() == "host" for name, _ in described.headers) else "1.0"
    lines = [f"{described.method} {described.target} HTTP/{version}", *(f"{name}: {value}" for name, value in described.headers)]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    try:
        parsed = reader.Request(config, IterUnreader([head]), NOBODY)
    except ParseException as error:
        raise next(kind for of, kind in REFUSALS if isinstance(error, of))(str(error)) from error
    request = Request(parsed.method, parsed.uri, parsed.raw_headers, scheme=described.scheme, host=described.host, peer=NOBODY[0])
    request.environ = {"SERVER_PROTOCOL": f"HTTP/{version}", "HTTP_AUTHORIZATION": ",".join(request.header_list("Authorization"))}
    return request


def own_answer(request: Request) -> Response | None:
    """What the gateway answers itself; None when routes are looked at. Raises the GatewayError that the client gets."""
    passed: list[Request] = []

    def route(request: Request) -> Response:
        passed.append(request)
        return Response(200, [])

    answer = Accept(route)(request)
    return None if passed else answer
