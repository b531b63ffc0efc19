"""The head of a request, byte for byte as the Call gives it. Pure.

RFC 9112 section 3. Host comes first, then the fields in their order, then Content-Length or Transfer-Encoding as the body says.
Nothing is repaired: a method or a field name that is no token, a target with white space, a value with CR, LF or NUL would let
one request become two, and is refused. Host, Content-Length and Transfer-Encoding among the fields are a defect of the caller.
"""

from __future__ import annotations

import re

from ..errors import BadRequest, InternalError, InvalidHost, InvalidTarget
from ..message import Body, Call

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET = re.compile(r"[\x21-\x7e\x80-\xff]+")
HOST = re.compile(r"[\x21-\x7e\x80-\xff]*")
RESERVED = frozenset({"host", "content-length", "transfer-encoding"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})      # need no second look
SPLITS = re.compile(r"[\r\n\0]")

_names: set[str] = set()                                 # field names found good before


def render_head(call: Call, body: bytes | Body | None, host: str) -> bytes:
    """Request line and fields, with the empty line. ``host`` is sent unless the call has its own. Raises InvalidTarget for the
    target, InvalidHost for the host and BadRequest for the rest."""
    if not TARGET.fullmatch(call.target):
        raise InvalidTarget(f"white space or control characters in {call.target[:200]!r}")
    method = call.method
    if method not in METHODS and not TOKEN.fullmatch(method):
        raise BadRequest(f"not a method: {method[:100]!r}")
    if call.host is not None:
        host = call.host
        if not HOST.fullmatch(host):
            raise InvalidHost(f"white space or control characters in {host[:200]!r}")
    lines = [f"{method} {call.target} HTTP/1.1\r\nHost: {host}\r\n"]
    for name, value in call.headers:
        if name not in _names:
            _check_name(name)
        lines.append(f"{name}: {value}\r\n")
    lines.append(_framing(body))
    text = "".join(lines)
    ends = len(lines) + (2 if len(lines[-1]) > 2 else 1)
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        _blame(call)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadRequest(f"not latin-1: {text[error.start:error.end]!r}") from error


def _framing(body: bytes | Body | None) -> str:
    """The field that announces the body, and the empty line."""
    if body is None:
        return "\r\n"
    length = len(body) if isinstance(body, bytes) else body.length
    return "Transfer-Encoding: chunked\r\n\r\n" if length is None else f"Content-Length: {length}\r\n\r\n"


def _check_name(name: str) -> None:
    if not TOKEN.fullmatch(name):
        raise BadRequest(f"not a field name: {name[:100]!r}")
    if name.lower() in RESERVED:
        raise InternalError(f"{name} is set by the transport, not by the caller")
    if len(_names) < 2000 and len(name) < 64:
        _names.add(name)


def _blame(call: Call) -> None:
    """Name the field with the character that would end its line."""
    name = next(name for name, value in call.headers if SPLITS.search(value))
    raise BadRequest(f"CR, LF or NUL in the value of {name}")
