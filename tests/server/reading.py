"""A request that Gunicorn's parser has read from pieces, and its body."""

from __future__ import annotations

from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader

from gateway.server.gunicorn_request import GunicornRequest
from gateway.server.reader import BodyReader

ADDRESS = ("127.0.0.1", 50000)


def request_of(pieces: list[bytes], **settings: object) -> tuple[GunicornRequest, BodyReader]:
    cfg = Config()
    for name, value in {"http_parser": "python", "header_map": "refuse", **settings}.items():
        cfg.set(name, value)
    unreader = IterUnreader(pieces)
    request = GunicornRequest(cfg, unreader, ADDRESS)
    return request, BodyReader(request, unreader, 30.0)


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /x HTTP/1.1", "Host: a.test", *lines, "", ""]).encode("latin-1")
