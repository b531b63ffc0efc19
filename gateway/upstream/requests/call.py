"""A prepared request of ``requests`` as a Call that sends the same bytes as stock; NotOurs for what only stock can send.

Host, Content-Length and Transfer-Encoding stand among the prepared headers; here they become the call's ``host`` and ``body``.
urllib3 and http.client add User-Agent and ``Accept-Encoding: identity`` where they are missing, and encode in the target what
``requests`` lets pass; so does this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextvars import copy_context
from typing import Any, NamedTuple

from urllib3 import __version__ as urllib3_version
from urllib3.util.request import SKIP_HEADER, body_to_chunks
from urllib3.util.url import _encode_target

from ...deadline import Deadline
from ...errors import TruncatedBody, with_cause
from ...http.grammar import TOKEN
from ...message import Body, Headers

PLAIN_TARGET = re.compile(r"/[A-Za-z0-9/_.~!$&'()*+,;=:@?-]*")      # needs no encoding
SPECIAL = frozenset({"host", "content-length", "transfer-encoding", "upgrade", "user-agent", "accept-encoding"})
USER_AGENT = "User-Agent", f"python-urllib3/{urllib3_version}"
IDENTITY = "Accept-Encoding", "identity"
PIECE = 16384                                            # bytes, as http.client reads a file


class PreparedCall(NamedTuple):
    """The parts of a prepared request."""

    headers: Headers
    names: set[str]                                      # of all fields, in lower case
    host: str | None
    body: bytes | Body | None


class NotOurs(Exception):
    """Only stock can send this request, or raise the right error for it."""


def take_apart(request: Any) -> PreparedCall:
    """Raises NotOurs."""
    special: dict[str, str] = {}
    headers: Headers = []
    names = set()
    for name, value in request.headers.items():
        if type(name) is not str or type(value) is not str:
            name, value = text_of(name), text_of(value)
        lower = name.lower()
        names.add(lower)
        if lower in SPECIAL:
            special[lower] = value
            if lower not in ("user-agent", "accept-encoding") or value == SKIP_HEADER:
                continue
        headers.append((name, value))
    if "user-agent" not in names:
        headers.append(USER_AGENT)
    if "accept-encoding" not in names:
        headers.append(IDENTITY)
    if "upgrade" in names or request.method == "CONNECT" or not TOKEN.fullmatch(request.method):
        raise NotOurs
    host = special.get("host")
    if host == SKIP_HEADER:
        raise NotOurs
    body = body_of(request.body, request.method, special.get("content-length"), special.get("transfer-encoding"))
    return PreparedCall(headers, names, host, body)


def text_of(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    raise NotOurs


def target_of(path: str) -> str:
    """Path and query as they are sent. Raises NotOurs."""
    if PLAIN_TARGET.fullmatch(path):
        return path
    if not path.startswith("/"):
        raise NotOurs
    return _encode_target(path)


def body_of(body: Any, method: str, length: str | None, coding: str | None) -> bytes | Body | None:
    """``length`` and ``coding`` are the fields that announce it. Raises NotOurs when they are not what goes with it."""
    if body is None:
        if coding is not None or length not in (None, "0"):
            raise NotOurs
        return None if length is None else b""
    if isinstance(body, str):
        body = body.encode()
    if isinstance(body, (bytes, bytearray)):
        if coding is not None or length != str(len(body)):
            raise NotOurs
        return bytes(body)
    if length is None and coding in (None, "chunked"):
        size = None
    elif coding is None and length is not None and length.isascii() and length.isdigit():
        size = int(length)
    else:
        raise NotOurs
    chunks: Any = body_to_chunks(body, method, PIECE).chunks
    if type(chunks) is tuple:                            # it is in memory, like a memoryview
        data = memoryview(body)
        if data.nbytes != (size or 0):                   # its items are no bytes: stock announces their number
            raise NotOurs
        if size:
            return octets(data)
    return Body(Upload(pieces_of(chunks, size is None), size).read, size)


class Upload:
    """The pieces of a body as ``read(size)``: ``length`` bytes of it, and no more.

    They may come from a generator that uses ``flask.request``, and the sender runs in a greenlet of its own: so the generator runs
    in the context in which the call was made.
    """

    def __init__(self, pieces: Iterator[bytes], length: int | None) -> None:
        self._context = copy_context()
        self._pieces = pieces
        self._length = self._left = length
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At least a byte, b"" at the end. Raises what the source does, and TruncatedBody where it ends too early."""
        if not self._rest:
            self._rest = memoryview(self._context.run(next, self._pieces, b""))
            if self._left and not self._rest:
                raise TruncatedBody(f"{self._left} of {self._length} bytes are missing")
        piece = bytes(self._rest[:size if self._left is None else min(size, self._left)])
        self._rest = self._rest[len(piece):]
        if self._left is not None:
            self._left -= len(piece)
        return piece


def pieces_of(chunks: Iterable[Any], chunked: bool) -> Iterator[bytes]:
    """The bytes, without empty pieces, that urllib3 and http.client would send for these chunks; raises TypeError like them. A
    chunk of a chunked body is anything that has a length and fits ``b"%b"``; of a body with Content-Length, anything that a socket
    takes, a file, or an iterable of those."""
    for chunk in chunks:
        if not chunk:
            continue
        if isinstance(chunk, str):
            chunk = chunk.encode()
        if chunked:
            len(chunk)
            yield from filter(None, [b"%b" % (chunk,)])
        elif hasattr(chunk, "read"):
            yield from pieces_of(body_to_chunks(chunk, "", PIECE).chunks or (), True)
        else:
            yield from filter(None, octets_of(chunk))


def octets_of(data: Any) -> Iterable[bytes]:
    """The bytes that ``http.client`` sends for an object in memory, or an iterable of such. Raises TypeError."""
    try:
        return [octets(data)]
    except TypeError:
        if not isinstance(data, Iterable):
            raise with_cause(TypeError(f"data should be a bytes-like object or an iterable, got {type(data)!r}"), None)
    return map(octets, data)


def octets(data: Any) -> bytes:
    """The bytes that a socket sends for ``data``. Raises what it does: TypeError, BufferError for what is not contiguous."""
    if type(data) is bytes:
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return bytes(view.cast("B"))


class FixedDeadline(Deadline):
    """The deadline of a call that uploads: the end of its body restarts neither this nor that of the request."""

    __slots__ = ()

    def __init__(self, whole: Deadline) -> None:
        super().__init__(whole.left(), whole.clock)

    def restart(self) -> None:
        return


def timeouts_of(timeout: Any) -> tuple[float | None, float | None]:
    """Seconds for connecting and for reading. Raises NotOurs for what is neither a number above 0 nor a pair of such."""
    if timeout is None:
        return None, None
    connect, read = timeout if type(timeout) is tuple and len(timeout) == 2 else (timeout, timeout)
    for seconds in (connect, read):
        if seconds is not None and not (isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0):
            raise NotOurs
    return connect, read
