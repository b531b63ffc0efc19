"""Every error of the gateway: its status, its stable code, and the flag its log line carries.

::

    GatewayError
    ├── BadRequest                400  what the client sent cannot be used
    │   ├── InvalidTarget              no path and no URL, bad dot segments, control characters
    │   ├── InvalidHost                no Host, several, or one that is no authority
    │   ├── DuplicateHeader            a header that may stand only once stands twice
    │   ├── MalformedBody              bad chunks
    │   ├── TruncatedBody              the body ended before its Content-Length
    │   └── BodyTimeout           408  the client stopped sending its body
    ├── BodyTooLarge              413
    ├── TargetTooLong             414
    ├── HeadTooLarge              431
    ├── ExpectationFailed         417
    ├── HeadTimeout               408  the client did not send the whole head in time
    ├── NotAllowedHere            501  a transfer coding, an Upgrade this server cannot take over
    ├── NoRoute                   404
    ├── MethodNotAllowed          405  carries ``allow``
    ├── ClientDisconnected        499  nobody reads this answer; it exists for the log
    │   └── SendTimeout                the client took nothing of its answer for too long
    ├── DeadlineExceeded          504  the time of the whole request is over
    ├── GatherTimeout             504  gather()'s own timeout passed; a TimeoutError too
    ├── UpstreamError             502  carries ``upstream`` and, once known, ``instance``
    │   ├── ConnectFailed              no connection: refused, unreachable, name unknown, TLS
    │   ├── UpstreamClosed             the connection ended before an answer
    │   ├── UpstreamProtocolError      the answer is not HTTP, or over our limits
    │   ├── UpstreamTruncated          the answer's body ended early; it is cut for the client too
    │   ├── UpstreamTimeout       504  connect or read timeout of one attempt
    │   │   └── ConnectTimeout         no connection in time: TCP connect, TLS handshake, name lookup
    │   └── PoolExhausted         503  no free connection within the wait allowed
    ├── OutOfFiles            503  this process may open no more files or sockets
    ├── PartFailed                502  a required part of a composition; carries ``part``
    └── InternalError             500  anything else: a defect, logged with its traceback
    ConfigError                        not a response: mistakes in the configuration, all at once

Strangers see ``code`` and ``title``; ``detail`` and the cause go to the log. ``detail`` is shown only where ``public`` says so:
where it can name nothing but what the client itself sent.
"""

from __future__ import annotations

import errno
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})       # for one more file or socket: OutOfFiles


class GatewayError(Exception):
    """Base of every error that becomes an answer.

    ``status`` is the HTTP status, ``code`` a stable identifier for programs, ``flag`` the short reason in the access log and
    ``title`` the one sentence a stranger sees. The exception's own text is the detail for the log.
    """

    status = 500
    code = "internal_error"
    flag = "IE"
    title = "The gateway failed to answer this request."
    public = False

    @property
    def detail(self) -> str:
        return str(self.args[0]) if self.args else ""

    def headers(self) -> list[tuple[str, str]]:
        """Header fields the answer must carry besides its body."""
        return []


class InternalError(GatewayError):
    """A defect. Its cause is chained."""


class BadRequest(GatewayError):
    status, code, flag, public = 400, "bad_request", "BR", True
    title = "The request cannot be understood."


class InvalidTarget(BadRequest):
    code = "invalid_target"
    title = "The request target is not acceptable."


class InvalidHost(BadRequest):
    code = "invalid_host"
    title = "The request needs exactly one valid Host."


class DuplicateHeader(BadRequest):
    code = "duplicate_header"
    title = "A header field that may appear only once was repeated."


class MalformedBody(BadRequest):
    code = "malformed_body"
    title = "The request body is not validly encoded."


class TruncatedBody(BadRequest):
    code = "truncated_body"
    title = "The request body ended before its announced length."


class BodyTimeout(BadRequest):
    status, code, flag = 408, "body_timeout", "BT"
    title = "The client stopped sending the request body."


class BodyTooLarge(GatewayError):
    status, code, flag, public = 413, "body_too_large", "BL", True
    title = "The request body is larger than this route accepts."


class TargetTooLong(GatewayError):
    status, code, flag, public = 414, "target_too_long", "BR", True
    title = "The request line is too long."


class HeadTooLarge(GatewayError):
    status, code, flag, public = 431, "head_too_large", "BR", True
    title = "The header of the request is too large."


class ExpectationFailed(GatewayError):
    status, code, flag, public = 417, "expectation_failed", "BR", True
    title = "The expectation of the request cannot be met."


class HeadTimeout(GatewayError):
    status, code, flag = 408, "head_timeout", "HT"
    title = "The request did not arrive in time."


class NotAllowedHere(GatewayError):
    status, code, flag, public = 501, "not_implemented", "NI", True
    title = "This server does not implement what the request asks for."


class NoRoute(GatewayError):
    status, code, flag = 404, "no_route", "NR"
    title = "There is nothing at this address."


class MethodNotAllowed(GatewayError):
    status, code, flag = 405, "method_not_allowed", "MN"
    title = "This method is not allowed here."

    def __init__(self, allow: list[str]) -> None:
        super().__init__("allowed: " + ", ".join(allow))
        self.allow = allow

    def headers(self) -> list[tuple[str, str]]:
        return [("Allow", ", ".join(self.allow))]


class ClientDisconnected(GatewayError):
    status, code, flag = 499, "client_disconnected", "DC"
    title = "The client went away."


class SendTimeout(ClientDisconnected):
    code, flag = "send_timeout", "ST"
    title = "The client stopped taking the answer."


class DeadlineExceeded(GatewayError):
    status, code, flag = 504, "deadline_exceeded", "DT"
    title = "The request took longer than it may."


class GatherTimeout(GatewayError, TimeoutError):
    """The ``timeout`` given to ``gather`` passed. A view that catches it knows it as TimeoutError; uncaught it is 504."""

    status, code, flag = 504, "gather_timeout", "GT"
    title = "A part of the work took longer than it may."


class UpstreamError(GatewayError):
    """An upstream did not give a usable answer. ``upstream`` and ``instance`` are names for the log; the others are for who decides
    whether there is another attempt (upstream/retry.py)."""

    status, code, flag = 502, "upstream_error", "UE"
    title = "A service behind the gateway failed."
    outcome: Any = None
    stale = unsent = busy = False

    def __init__(self, detail: str = "", upstream: str = "", instance: str = "") -> None:
        super().__init__(detail)
        self.upstream = upstream
        self.instance = instance


class ConnectFailed(UpstreamError):
    code, flag = "upstream_connect_failed", "UF"
    title = "A service behind the gateway cannot be reached."


class UpstreamClosed(UpstreamError):
    code, flag = "upstream_closed", "UC"
    title = "A service behind the gateway closed the connection without an answer."


class UpstreamProtocolError(UpstreamError):
    code, flag = "upstream_protocol_error", "UP"
    title = "A service behind the gateway gave an answer that is not valid HTTP."


class UpstreamTruncated(UpstreamError):
    code, flag = "upstream_truncated", "UX"
    title = "A service behind the gateway cut its answer short."


class UpstreamTimeout(UpstreamError):
    status, code, flag = 504, "upstream_timeout", "UT"
    title = "A service behind the gateway did not answer in time."


class ConnectTimeout(UpstreamTimeout):
    code = "upstream_connect_timeout"
    title = "A service behind the gateway cannot be reached in time."


class PoolExhausted(UpstreamError):
    status, code, flag = 503, "upstream_busy", "UO"
    title = "A service behind the gateway is busy."


UNSENT = (ConnectFailed, ConnectTimeout, PoolExhausted)  # no byte of the request was sent: it has changed nothing, nor caused it


class OutOfFiles(GatewayError):
    status, code, flag = 503, "out_of_files", "OF"
    title = "The gateway is too busy to answer this request."


class PartFailed(GatewayError):
    """A required part of a composed answer failed: 504 when it was time, else 502. ``part`` is its name in the configuration."""

    status, code, flag, public = 502, "part_failed", "PF", True
    title = "A required part of the answer could not be had."

    def __init__(self, part: str, reason: str, cause: GatewayError | None = None) -> None:
        super().__init__(f"part {part!r}: {reason}")
        self.part = part
        if cause is not None and cause.status == 504:
            self.status = 504


class ConfigError(Exception):
    """Mistakes in a configuration, all of them. ``problems`` is a list of sentences, each naming its place."""

    def __init__(self, problems: list[str], source: str = "") -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.source = source


def with_cause(error: E, cause: BaseException | None) -> E:
    """``raise with_cause(error, cause)`` is ``raise error from cause``, of which mypyc drops the second half without a word."""
    error.__cause__ = cause
    return error
