"""An answer of ours as urllib3 gives it to ``requests``: decoding, ``raw``, streaming and exceptions are urllib3's own.

``BodyFile`` takes the place of urllib3's ``http.client.HTTPResponse``: it reads the bytes of the body and raises the same errors,
so that urllib3 and ``requests`` raise what programs expect::

    UpstreamTruncated       IncompleteRead    ProtocolError       requests.ChunkedEncodingError
    UpstreamProtocolError   HTTPException     ProtocolError       requests.ChunkedEncodingError
    UpstreamTimeout         TimeoutError      ReadTimeoutError    requests.ConnectionError
    DeadlineExceeded        what ``late`` makes of it, so that nothing takes it for a broken connection

The connection is free again when the body has been read to its end; it is closed when the answer is closed, or forgotten, before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from http.client import HTTPException, IncompleteRead
from typing import Any

from urllib3._collections import HTTPHeaderDict
from urllib3.exceptions import ResponseNotChunked
from urllib3.response import HTTPResponse

from ...deadline import Deadline
from ...errors import DeadlineExceeded, GatewayError, UpstreamTimeout, UpstreamTruncated
from ...loop.monotonic_clock import CLOCK, MonotonicClock
from ...message import Response
from .destinations import NEVER

PIECE = 65536
NOT_PLAIN = frozenset({"content-encoding", "transfer-encoding", "set-cookie", "set-cookie2"})


class BodyFile:
    """Reads ``body``: bytes, or a stream whose ``read(size)`` returns at least one byte before the end.

    ``silence`` is the longest wait for a piece in seconds, where the stream itself has no limit; ``deadline`` that of the whole.
    ``msg`` holds the header fields, where a cookie jar looks for them.
    """

    def __init__(self, body: Any, headers: HTTPHeaderDict, silence: float | None, deadline: Deadline | None,
                 clock: MonotonicClock) -> None:
        self.msg = headers
        self.closed = False
        self._clock = clock
        self._silence = silence
        self._deadline = deadline
        self._here = body if isinstance(body, bytes) else b""
        self._at = 0                                     # how much of it has been read
        self._stream = None if isinstance(body, bytes) else body
        self._error: Exception | None = None

    def read(self, size: int | None = None) -> bytes:
        """``size`` bytes, fewer only at the end; None: all, or the error that came in the place of the rest."""
        if self.closed or size == 0:
            return b""
        pieces: list[bytes] = []
        left = size
        while left is None or left > 0:
            piece = self._read_some(left, bool(pieces) and size is not None)
            if not piece:
                break
            pieces.append(piece)
            left = left and left - len(piece)
        if left != 0 and self._error is None:
            self.close()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int | None = None) -> bytes:
        """The bytes that are here, at most ``size``; b"" at the end."""
        if self.closed or size == 0:
            return b""
        piece = self._read_some(size, False)
        if not piece:
            self.close()
        return piece

    def close(self) -> None:
        self.closed = True
        stream, self._stream, self._here, self._at = self._stream, None, b"", 0
        if stream is not None:
            stream.close()

    def isclosed(self) -> bool:
        return self.closed

    def _read_some(self, size: int | None, partial: bool) -> bytes:
        """At least a byte, b"" at the end. After a part of the bytes (``partial``) an error is left for the next call."""
        if self._at == len(self._here) and self._stream is not None:
            self._here, self._at = self._receive_or_note(), 0
            if self._error is not None and not partial:
                raise self._error
        here, start = self._here, self._at
        self._at = len(here) if size is None else min(start + size, len(here))
        return here if start == 0 and self._at == len(here) else here[start:self._at]

    def _receive_or_note(self) -> bytes:
        """The next piece; b"" at the end, and after an error, which stays: nothing comes after it."""
        if self._error is None:
            try:
                return self._receive()
            except GatewayError as error:
                self._error = http_client_error(error)
        return b""

    def _receive(self) -> bytes:
        assert self._stream is not None
        if self._deadline is None and self._silence is None:
            return self._stream.read(PIECE)
        seconds = NEVER if self._silence is None else self._silence
        late: GatewayError = UpstreamTimeout(f"no byte of the body came for {self._silence} s")
        if self._deadline is not None:
            left = self._deadline.left()
            if left < seconds:
                seconds = left
                late = DeadlineExceeded("the time of the request was over within the body of an answer")
        with self._clock.time_limit(seconds, late):
            return self._stream.read(PIECE)


def http_client_error(error: GatewayError) -> Exception:
    """The error that http.client would have raised."""
    result: Exception
    if isinstance(error, UpstreamTruncated):
        result = IncompleteRead(b"")
    elif isinstance(error, UpstreamTimeout):
        result = TimeoutError(error.detail)
    elif isinstance(error, DeadlineExceeded):
        return error
    else:
        result = HTTPException(error.detail)
    result.__cause__ = error
    return result


class RawResponse(HTTPResponse):
    """``raw`` of a response. ``label`` names the place in errors; ``late`` makes the error to raise of a DeadlineExceeded.

    ``fields`` are the header fields as they came; ``own_origins`` the addresses of the upstream, when it redirects
    (redirects.py).
    """

    own_origins: frozenset[str] = frozenset()

    def __init__(self, response: Response, method: str, target: str, label: str, *, silence: float | None,
                 deadline: Deadline | None, late: Callable[[DeadlineExceeded], Exception], clock: MonotonicClock = CLOCK) -> None:
        headers = HTTPHeaderDict()
        for name, value in response.headers:
            headers.add(name, value)
        self.fields = response.headers
        self.sets_cookies = "set-cookie" in headers or "set-cookie2" in headers
        body: Any = BodyFile(response.body, headers, silence, deadline, clock)
        pool: Any = label
        self._late = late
        super().__init__(body, headers, response.status, 11, "HTTP/1.1", response.reason, preload_content=False,
                         decode_content=False, original_response=body, pool=pool, request_method=method, request_url=target)

    def release_conn(self) -> None:
        """There is no connection of urllib3 to give back."""

    def _raw_read(self, amt: int | None = None, *, read1: bool = False) -> bytes:
        try:
            return super()._raw_read(amt, read1=read1)
        except DeadlineExceeded as error:
            raise self._late(error) from error

    def stream(self, amt: int | None = PIECE, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        """A chunked body in pieces as they come, of at most ``amt`` bytes; any other in pieces of exactly ``amt``."""
        if self.chunked:
            return self.read_chunked(amt, decode_content)
        return super().stream(amt, decode_content)

    def supports_chunked_reads(self) -> bool:
        return True

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        if not self.chunked:
            raise ResponseNotChunked("Response is not chunked. Header 'transfer-encoding: chunked' is missing.")
        if amt is not None and amt < 0:
            amt = None
        try:
            while data := self.read1(amt, decode_content):
                yield data
        except GeneratorExit:                            # urllib3 takes it for the end of interest as well
            self.close()
            raise


class WholeResponse(RawResponse):
    """``raw`` of a plain answer that is all here. ``requests`` only reads its body once, so the rest is made on demand.

    States: new; read, by ``requests``; made, after any other access: then it is a RawResponse, which is read if this was.
    """

    def __init__(self, response: Response, *arguments: Any, **settings: Any) -> None:
        vars(self).update(status=response.status, reason=response.reason, fields=response.headers, sets_cookies=False,
                          _made_of=(response, arguments, settings), _read_with=None)

    @staticmethod
    def suits(response: Response) -> bool:
        """Is the body here, without a coding, and are there no cookies?"""
        return type(response.body) is bytes and not any(name.lower() in NOT_PLAIN for name, _ in response.headers)

    def stream(self, amt: int | None = PIECE, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        own = vars(self)
        body = own["_made_of"][0].body if type(self) is WholeResponse and not own["_read_with"] else None
        if body is None or not amt or amt < len(body):
            yield from RawResponse.stream(self, amt, decode_content)
            return
        own["_read_with"] = amt, decode_content
        if body:
            yield body

    @property
    def closed(self) -> bool:
        return vars(self)["_read_with"] is not None

    def __getattr__(self, name: str) -> Any:
        self._make()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._make()
        setattr(self, name, value)

    def _make(self) -> None:
        own = vars(self)
        (response, arguments, settings), read_with = own.pop("_made_of"), own.pop("_read_with")
        object.__setattr__(self, "__class__", RawResponse)
        RawResponse.__init__(self, response, *arguments, **settings)
        if read_with:
            b"".join(self.stream(*read_with))


__all__ = ["BodyFile", "RawResponse", "WholeResponse"]
