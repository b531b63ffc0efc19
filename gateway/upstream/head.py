"""The head of a response, read strictly: status line, header fields, and what they say of the body. Pure.

RFC 9112 sections 4, 5 and 6, RFC 9110 section 8.6. Lines met before are looked up (http/fields.py), which is three times as fast as
a C parser that leaves bytes to be decoded and judged, and stricter. Its rules:

- Lines end with CRLF; a bare LF, a bare CR and every control character but HTAB is an error.
- A folded line (obs-fold) is unfolded: a gateway replaces it by a space (RFC 9112 section 5.2).
- White space before the colon is taken away, as a proxy has to in a response (RFC 9112 section 5.1).
- At most 64 KB and 200 fields.
- ``size`` is the length of the body in bytes, CHUNKED or UNTIL_CLOSE; that HEAD, 1xx, 204 and 304 have none is for the caller.
- Content-Length repeated with one and the same number becomes one field; different or invalid values are an error.
- Transfer-Encoding is an error unless it is exactly ``chunked`` on HTTP/1.1: no other coding was asked for, and what is
  forwarded must be what was sent. Together with Content-Length it is an error, for that is how responses are smuggled.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import Any

from ..errors import UpstreamProtocolError, with_cause
from ..http.fields import CONNECTION_FIELDS, READ
from ..message import Response

MAX_HEAD = 65536
MAX_FIELDS = 200
CHUNKED = -1
UNTIL_CLOSE = -2

STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
FOLD = re.compile(rb"\r\n[ \t]+")
SPACE_BEFORE_COLON = re.compile(rb"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]+:")
SPECIAL = CONNECTION_FIELDS | {"content-length"}
PROTOCOL = b"HTTP/1."
PAIR = READ.__getitem__                                  # map() over these is faster than a comprehension
FIELD = itemgetter(0)

_status_lines: dict[bytes, tuple[int, int, str]] = {}       # those met before, taken apart: there are few


class ConflictingLengths(ValueError):
    """A Content-Length that is not one number: the cause of an UpstreamProtocolError."""


class Head(Response):
    """A response that still has no body. ``end`` is where that starts in the bytes parsed. ``keep_alive`` says whether the
    connection may serve again, and ``idle`` for how many seconds the server promises to keep it (``Keep-Alive: timeout=5``), None
    when it does not say."""

    __slots__ = ("size", "keep_alive", "idle", "end")

    def __init__(self, minor: int, status: int, reason: str, end: int) -> None:
        self.version = "1.0" if minor == 0 else "1.1"        # and the rest of what super().__init__ does, for every answer
        self.status = status
        self.reason = reason
        self.fields = []
        self.body = b""
        self.whole = self.tunnel = self.takeover = self.head_lines = None
        self.hop = []
        self.end = end
        self.size = UNTIL_CLOSE
        self.keep_alive = minor > 0
        self.idle: float | None = None

    def __repr__(self) -> str:
        return f"Head({self.status} {self.reason}, {len(self.headers)} fields, size {self.size})"


def parse_head(data: bytes, old_size: int = 0) -> Head | None:
    """The head ``data`` begins with, None while it is not all there; the first ``old_size`` bytes have been looked at.
    Raises UpstreamProtocolError."""
    end = data.find(b"\r\n\r\n", old_size - 3 if old_size > 3 else 0, MAX_HEAD)
    if end < 0:
        _refuse_beginning(data, old_size)
        return None
    line_end = data.index(b"\r\n")
    line = data[:line_end]
    minor, status, reason = _status_lines.get(line) or _status_line(line)
    head = Head(minor, status, reason, end + 4)
    if not _read_fields(head, data[line_end + 2:end].split(b"\r\n") if end > line_end else [], minor):
        lines = _regular(data[line_end:end])
        if not _read_fields(head, lines, minor):
            if len(lines) > MAX_FIELDS:
                raise UpstreamProtocolError(f"more than {MAX_FIELDS} header fields")
            bad = next((line for line in lines if READ[line] is None), b"")
            raise UpstreamProtocolError(f"not a header field: {bad[:100]!r}")
    return head


def _read_fields(head: Head, lines: list[bytes], minor: int) -> bool:
    """Fill in the fields and what they say of the body and of the connection. False: a line is no field, or there are too many."""
    if len(lines) > MAX_FIELDS:
        return False
    pairs: list[Any] = list(map(PAIR, lines))
    if None in pairs:
        return False
    head.fields = list(map(FIELD, pairs))
    lengths = coding = connection = None
    for field, name in pairs:
        if name in SPECIAL:
            value = field[1]
            if name == "content-length":
                lengths = value if lengths is None else f"{lengths},{value}"
                continue
            head.hop.append(field)                           # type: ignore[union-attr]
            if name == "connection":
                connection = value if connection is None else f"{connection},{value}"
            elif name == "keep-alive":
                head.idle = _promise(value)
            elif name == "transfer-encoding":
                coding = value if coding is None else f"{coding}, {value}"
    if connection == "keep-alive":
        head.keep_alive = True
    elif connection is not None:
        head.keep_alive = _persistent(connection.lower(), minor)
    if coding is not None:
        if coding.lower() != "chunked" or lengths is not None or minor == 0:
            raise UpstreamProtocolError(f"Transfer-Encoding {coding!r}" + (" with Content-Length" if lengths is not None else "")
                                        + (" on HTTP/1.0" if minor == 0 else ""))
        head.size = CHUNKED
    elif lengths is not None:
        head.size = int(lengths) if lengths.isdigit() and lengths.isascii() and len(lengths) < 19 else _one_length(head, lengths)
    return True


def _status_line(line: bytes) -> tuple[int, int, str]:
    match = STATUS_LINE.fullmatch(line)
    if not match:
        raise UpstreamProtocolError(f"not a status line: {line[:100]!r}")
    parts = int(match[1]), int(match[2]), (match[3] or b"").decode("latin-1")
    if len(_status_lines) < 256 and len(line) < 64:
        _status_lines[line] = parts
    return parts


def _refuse_beginning(data: bytes, old_size: int) -> None:
    """What can never become a head is refused at once instead of being waited for."""
    if not (data.startswith(PROTOCOL) or PROTOCOL.startswith(data)):
        raise UpstreamProtocolError(f"not HTTP/1: {data[:100]!r}")
    if len(data) >= MAX_HEAD:
        raise UpstreamProtocolError(f"the head is larger than {MAX_HEAD} bytes")
    start = max(old_size - 1, 0)
    if data.count(b"\n", old_size) != data.count(b"\r\n", start):
        raise UpstreamProtocolError("a line ends with a bare LF")


def _regular(text: bytes) -> list[bytes]:
    """The lines of the fields, folded ones joined by a space, none with a space before its colon. ``text`` begins with CRLF."""
    if text[2:3] in (b" ", b"\t"):
        raise UpstreamProtocolError("white space before the first header field")
    return FOLD.sub(b" ", SPACE_BEFORE_COLON.sub(rb"\r\n\1:", text))[2:].split(b"\r\n")


def _persistent(value: str, minor: int) -> bool:
    """Whether the connection stays open with ``Connection: value`` (lower case). RFC 9112 section 9.3; close wins."""
    if value == "keep-alive":
        return True
    options = [option.strip() for option in value.split(",")]
    return "close" not in options and (minor > 0 or "keep-alive" in options)


def _promise(value: str) -> float | None:
    """Seconds of ``Keep-Alive: timeout=5, max=100``."""
    for parameter in value.split(","):
        name, _, number = parameter.strip().partition("=")
        if name.lower() == "timeout" and number.isascii() and number.isdigit() and len(number) < 9:
            return float(number)
    return None


def _one_length(head: Head, lengths: str) -> int:
    """The one value of a Content-Length given several times, which then stands once in the headers (RFC 9110 section 8.6)."""
    values = [value.strip(" \t") for value in lengths.split(",")]
    sizes = {int(value) if value.isascii() and value.isdigit() and len(value) < 19 else -1 for value in values}
    size = sizes.pop()
    if sizes or size < 0:
        raise with_cause(UpstreamProtocolError(f"Content-Length {lengths[:100]!r}"), ConflictingLengths(lengths[:100]))
    first = next(index for index, (name, _) in enumerate(head.headers) if name.lower() == "content-length")
    head.headers = [(name, str(size)) if index == first else (name, text) for index, (name, text) in enumerate(head.headers)
                    if index == first or name.lower() != "content-length"]
    return size
