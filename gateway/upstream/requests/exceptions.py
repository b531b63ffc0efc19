"""Our errors as those of ``requests``: each of the class that stock raises for the same fault, with ours as its ``__cause__``.
"""

from __future__ import annotations

import ssl
from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, exceptions
from urllib3 import exceptions as urllib3_exceptions

from ...errors import (ConnectFailed, ConnectTimeout, DeadlineExceeded, GatewayError, PoolExhausted, UpstreamClosed,
                       UpstreamProtocolError, UpstreamTimeout)
from ...message import Call
from ..dns import LookupFailed
from ..head import ConflictingLengths


class DeadlineTimeout(exceptions.ReadTimeout, DeadlineExceeded):
    """The time of the request that is being answered was over during a call. Uncaught it becomes 504."""


def requests_error(error: GatewayError, label: str, call: Call, request: PreparedRequest) -> exceptions.RequestException:
    """The error that stock raises for the same fault, around the one that urllib3 would raise, and caused by ``error``. ``label``
    is the name of the destination in those."""
    result = error_of_stock(error, label, call, request)
    result.__cause__ = error
    return result


def error_of_stock(error: GatewayError, pool: Any, call: Call, request: PreparedRequest) -> exceptions.RequestException:
    if isinstance(error, DeadlineExceeded):
        return DeadlineTimeout(urllib3_exceptions.ReadTimeoutError(pool, call.target, error.detail), request=request)
    if isinstance(error, (ConnectTimeout, PoolExhausted)):
        return exceptions.ConnectTimeout(gave_up(pool, call, urllib3_exceptions.ConnectTimeoutError(
            pool, f"Connection timed out. ({error.detail})")), request=request)
    in_body = bool(call.attempts) and call.attempts[-1].status != 0
    if isinstance(error, UpstreamTimeout):
        if in_body:                                      # stock says so in this odd way
            return exceptions.ConnectionError(urllib3_exceptions.ReadTimeoutError(pool, None, "Read timed out."))
        return exceptions.ReadTimeout(urllib3_exceptions.ReadTimeoutError(
            pool, call.target, f"Read timed out. (read timeout={call.timeout})"), request=request)
    if isinstance(error, ConnectFailed):
        return connect_error(error, pool, call, request)
    if isinstance(error.__cause__, ConflictingLengths):
        return exceptions.InvalidHeader(urllib3_exceptions.InvalidHeader(error.detail), request=request)
    if in_body:
        return exceptions.ChunkedEncodingError(protocol_error(IncompleteRead(b""), error, f"Connection broken: {error.detail}"))
    inside: Exception = error
    if isinstance(error, UpstreamClosed):
        inside = error.__cause__ if isinstance(error.__cause__, OSError) else RemoteDisconnected(
            "Remote end closed connection without response")
    elif isinstance(error, UpstreamProtocolError):
        inside = BadStatusLine(error.detail)
    return exceptions.ConnectionError(protocol_error(inside, error, "Connection aborted."), request=request)


def connect_error(error: ConnectFailed, pool: Any, call: Call, request: PreparedRequest) -> exceptions.ConnectionError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):                  # a certificate that does not verify is one as well
        return exceptions.SSLError(gave_up(pool, call, urllib3_exceptions.SSLError(cause)), request=request)
    reason = urllib3_exceptions.NewConnectionError(pool, f"Failed to establish a new connection: {error.detail}")
    if isinstance(cause, LookupFailed):
        host: Any = urlsplit(str(request.url)).hostname
        reason = urllib3_exceptions.NameResolutionError(host, pool, cause)  # type: ignore[arg-type]
    return exceptions.ConnectionError(gave_up(pool, call, reason), request=request)


def gave_up(pool: Any, call: Call, reason: Exception) -> urllib3_exceptions.MaxRetryError:
    return urllib3_exceptions.MaxRetryError(pool, call.target, reason)


def protocol_error(inside: Exception, error: GatewayError, text: str) -> urllib3_exceptions.ProtocolError:
    if inside is not error:
        inside.__cause__ = error
    return urllib3_exceptions.ProtocolError(text, inside)


def gateway_error(error: BaseException | None) -> GatewayError | None:
    """The GatewayError behind one of ``requests`` or urllib3, from the call or from reading the body of the answer."""
    while error is not None and not isinstance(error, GatewayError):
        if not isinstance(error, (exceptions.RequestException, urllib3_exceptions.HTTPError, HTTPException, TimeoutError)):
            return None
        error = error.__cause__ or error.__context__
    return error
