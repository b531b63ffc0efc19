"""The head of a request, byte for byte as the Call gives it. Pure.

RFC 9112 section 3. Host comes first, then the protocol to switch to (RFC 9110 section 7.8), then the fields in their order, then
Content-Length or Transfer-Encoding as the body says.
Nothing is repaired: a method or a field name that is no token, a target with white space, a value with CR, LF or NUL would let
one request become two, and is refused. Host, Content-Length and Transfer-Encoding among the fields are a defect of the caller.
"""

from __future__ import annotations

import re

from ..errors import BadRequest, InternalError, InvalidHost, InvalidTarget, with_cause
from ..http.fields import ReservedField, UnsafeField, WrittenFields
from ..http.grammar import TOKEN
from ..message import Body, Call

TARGET = re.compile(r"[\x21-\x7e\x80-\xff]+")
HOST = re.compile(r"[\x21-\x7e\x80-\xff]*")
RESERVED_FIELDS = frozenset({"host", "content-length", "transfer-encoding"})
LINE = WrittenFields(RESERVED_FIELDS).__getitem__
SWITCH = "Connection: Upgrade\r\nUpgrade: %s\r\n"
COMMON_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})      # need no second look


def render_head(call: Call, body: bytes | Body | None, host: str) -> bytes:
    """Request line and fields, with the empty line. ``host`` is sent unless the call has its own. Raises InvalidTarget for the
    target, InvalidHost for the host and BadRequest for the rest."""
    if not TARGET.fullmatch(call.target):
        raise InvalidTarget(f"white space or control characters in {call.target[:200]!r}")
    method = call.method
    if method not in COMMON_METHODS and not TOKEN.fullmatch(method):
        raise BadRequest(f"not a method: {method[:100]!r}")
    if call.host is not None:
        host = call.host
        if not HOST.fullmatch(host):
            raise InvalidHost(f"white space or control characters in {host[:200]!r}")
    first = f"{method} {call.target} HTTP/1.1\r\nHost: {host}\r\n{call.upgrade and SWITCH % call.upgrade}".encode("latin-1")
    try:
        fields = b"".join(map(LINE, call.headers))
    except UnsafeField as error:
        raise with_cause(BadRequest(str(error)), None)
    except ReservedField as reserved:
        raise with_cause(InternalError(f"{reserved} is set by the transport, not by the caller"), None)
    return first + fields + (b"\r\n" if body is None else _framing(body))


def _framing(body: bytes | Body) -> bytes:
    """The field that announces the body, and the empty line."""
    length = len(body) if isinstance(body, bytes) else body.length
    return b"Transfer-Encoding: chunked\r\n\r\n" if length is None else b"Content-Length: %d\r\n\r\n" % length
