"""Ordinary ``requests`` over our upstreams: ``govern_requests()`` takes over every session of the process.

It replaces ``HTTPAdapter.send``, which every session calls, old or new, its own or a library's; lets new sessions make adapters
that cost nothing; and puts the shortcuts in place (shortcuts.py). A call then goes one of three ways:

- ``http://<upstream>/path`` to that upstream, balanced over its instances, unless a redirect from elsewhere leads there
  (redirects.py);
- any other http or https URL to the foreign destination with that authority and TLS settings, whose connections the whole process
  shares (destinations.py);
- to the stock adapter, with the stock result: through a proxy, with retries or pool settings of its own, an adapter of a class of
  its own, an odd scheme or framing, an Upgrade, a tool that replaces parts of urllib3 (hooks.py, urllib3_connect.py), and
  whatever is malformed, for which stock raises the right error.

The sessions' own business stays theirs: cookies, redirects, authentication, hooks. Nothing is kept here but connections.

Within a request a call has the time the request has left, is noted in its attempts, and tells upstreams (never a foreign host)
its X-Request-Id and trace. An error is of the class that stock raises for the same fault, with ours as its ``__cause__``; a
deadline that passes is DeadlineTimeout, which is a requests.ReadTimeout and a DeadlineExceeded.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Mapping
from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import requests.sessions
from requests import PreparedRequest
from requests import Response as RequestsResponse
from requests import exceptions
from requests.adapters import DEFAULT_POOLBLOCK, DEFAULT_POOLSIZE, HTTPAdapter
from requests.utils import select_proxy
from urllib3 import exceptions as urllib3_exceptions
from urllib3.poolmanager import PoolManager
from urllib3.util.retry import Retry

from ...deadline import Deadline
from ...errors import (BadRequest, ConnectFailed, ConnectTimeout, DeadlineExceeded, GatewayError, PoolExhausted, UpstreamClosed,
                       UpstreamProtocolError, UpstreamTimeout)
from ...loop.native_threads import event_loop, native_thread
from ...message import Body, Call, Headers, Request
from ...tasks import current_request, give_way
from ..client import Upstream
from ..dns import LookupFailed
from ..head import ConflictingLengths
from . import redirects, shortcuts, urllib3_connect
from .call import FixedDeadline, NotOurs, take_apart, target_of, timeouts_of
from .destinations import NEVER, Destination, Destinations
from .hooks import Way, hooks, show
from .response import RawResponse, WholeResponse

TRACE = ("traceparent", "tracestate")
FRESH = {"config", "proxy_manager", "_pool_connections", "_pool_maxsize", "_pool_block"}
STOCK_RETRIES = vars(Retry(0, read=False))
STOCK_POOL = {"maxsize": DEFAULT_POOLSIZE, "block": DEFAULT_POOLBLOCK}

stock_send = HTTPAdapter.send


class DeadlineTimeout(exceptions.ReadTimeout, DeadlineExceeded):
    """The time of the request that is being answered was over during a call. Uncaught it becomes 504."""


def govern_requests(upstreams: Mapping[str, Upstream] | None = None) -> None:
    """Send what every ``requests`` session of this process sends through ``upstreams``, and to foreign hosts by our transport.

    May be called again: with upstreams, they replace those before; without, it changes nothing.
    """
    if upstreams is not None:
        governor.use(upstreams)
    if not governor.active:
        governor.active = True
        HTTPAdapter.send = governed_send  # type: ignore[method-assign]
        requests.sessions.HTTPAdapter = LazyAdapter
        urllib3_connect.install()
        redirects.install()
        shortcuts.install()


def ungovern_requests() -> None:
    """Undo ``govern_requests`` and close the unused connections to foreign hosts."""
    governor.active = False
    governor.use({})
    requests.sessions.HTTPAdapter = HTTPAdapter
    urllib3_connect.remove()
    redirects.remove()
    shortcuts.remove()
    if HTTPAdapter.send is governed_send:                # else somebody has wrapped it, and it goes on as stock
        HTTPAdapter.send = stock_send  # type: ignore[method-assign]


class Governor:
    """Whether calls are governed, the configured upstreams, and the destinations of each native thread."""

    def __init__(self) -> None:
        self.active = False
        self._upstreams: dict[str, Upstream] = {}
        self._home = 0
        self._destinations: WeakKeyDictionary[Any, Destinations] = WeakKeyDictionary()

    def use(self, upstreams: Mapping[str, Upstream]) -> None:
        """Set the configured upstreams, whose connections belong to this thread."""
        self._upstreams = dict(upstreams)
        self._home = native_thread()
        destinations = self._destinations.pop(event_loop(), None) if self._destinations else None
        self._destinations = WeakKeyDictionary()
        if destinations is not None:
            destinations.close()

    def destinations(self) -> Destinations:
        """The destinations of this thread. In a thread other than the application's, each upstream is one of its own."""
        loop = event_loop()
        destinations = self._destinations.get(loop)
        if destinations is None or destinations.process != os.getpid():      # a parent's connections are left, not closed
            upstreams = self._upstreams
            if native_thread() != self._home:
                upstreams = {name: Upstream(name, upstream.settings) for name, upstream in upstreams.items()}
            destinations = self._destinations[loop] = Destinations(upstreams)
        return destinations

    def __repr__(self) -> str:
        return f"Governor({'active' if self.active else 'off'}, {', '.join(self._upstreams)})"


governor = Governor()
NO_DEADLINE = Deadline(NEVER)


def governed_send(self: HTTPAdapter, request: PreparedRequest, stream: bool = False, timeout: Any = None, verify: Any = True,
                  cert: Any = None, proxies: Any = None) -> RequestsResponse:
    """``HTTPAdapter.send`` while ``requests`` is governed."""
    destination = None
    if governor.active and governable(self):
        way = hooks.way()
        try:
            if way is Way.STOCK:
                return send_by_name(self, request, stream=stream, timeout=timeout)
            destination = destination_of(request, verify, cert, proxies)
            return exchange(self, destination, request, stream, timeout, way is Way.VISIBLE)
        except NotOurs:
            pass
    try:
        return stock_send(self, request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
    except exceptions.ConnectionError as error:
        if destination is None or not destination.is_configured:
            raise
        raise exceptions.ConnectionError(
            f"upstream {urlsplit(str(request.url)).hostname!r} is not sent a request with such a body or header fields (the body is"
            f" of {type(request.body)!r}), and as the name of a host it cannot be reached", request=request) from error


def governable(adapter: HTTPAdapter) -> bool:
    """Is it an adapter that a session made for itself, without changes?"""
    own = vars(adapter)
    if type(adapter) is LazyAdapter and own.keys() == FRESH:
        return True
    if type(adapter) not in (HTTPAdapter, LazyAdapter) or not own.keys() <= FRESH | {"poolmanager", "max_retries"}:
        return False
    pools = adapter.poolmanager
    return (type(pools) is PoolManager and pools.connection_pool_kw == STOCK_POOL and vars(adapter.max_retries) == STOCK_RETRIES
            and own["_pool_connections"] == DEFAULT_POOLSIZE)


def destination_of(request: PreparedRequest, verify: Any, cert: Any, proxies: Any) -> Destination:
    """The destination of a request; for a configured upstream, whatever the proxies. Raises NotOurs."""
    try:
        parts = urlsplit(request.url or "")
    except ValueError:
        raise NotOurs from None
    scheme, netloc = str(parts.scheme), str(parts.netloc).rpartition("@")[2].lower()
    destinations = governor.destinations()
    if scheme == "http":
        destination = named_destination(request, netloc, destinations)
        if destination is not None:
            return destination
        if cert is not None:
            raise NotOurs
        verify = True
    elif scheme != "https" or type(verify) not in (bool, str) or not is_certificate(cert):
        raise NotOurs
    if proxies and select_proxy(str(request.url), proxies):
        raise NotOurs
    destination = destinations.foreign(scheme, netloc, verify, cert)
    if destination is None:
        raise NotOurs
    if verify is False:
        warnings.warn(f"Unverified HTTPS request is being made to host '{parts.hostname}'. Adding certificate verification is "
                      "strongly advised. See: https://urllib3.readthedocs.io/en/latest/advanced-usage.html#tls-warnings",
                      urllib3_exceptions.InsecureRequestWarning)
    return destination


def named_destination(request: PreparedRequest, name: str, destinations: Destinations) -> Destination | None:
    """The configured upstream that an http URL with this authority means, if it may be called by its name."""
    destination = destinations.names.get(name)
    return destination if destination is not None and redirects.may_use_name(request, name) else None


def send_by_name(adapter: HTTPAdapter, request: PreparedRequest, **arguments: Any) -> RequestsResponse:
    """Send a request to an upstream the stock way, to one of its instances. Raises NotOurs for any other, and what stock raises."""
    try:
        parts = urlsplit(str(request.url))
    except ValueError:
        raise NotOurs from None
    name = parts.netloc.rpartition("@")[2].lower()
    destination = named_destination(request, name, governor.destinations()) if parts.scheme == "http" else None
    if destination is None:
        raise NotOurs
    instance = destination.upstream.balancer.choose(destination.upstream.clock.now())
    duplicate = request.copy()
    duplicate.headers.setdefault("Host", host_of(destination.upstream.settings.host, current_request.get()) or instance.authority)
    with urllib3_connect.host_alias(name, instance):
        return stock_send(adapter, duplicate, **arguments)


def is_certificate(cert: Any) -> bool:
    """Is it None, a file, or a file and that of its key?"""
    return cert is None or type(cert) is str or type(cert) is tuple and len(cert) == 2


def exchange(adapter: HTTPAdapter, destination: Destination, request: PreparedRequest, stream: bool, timeout: Any,
             visible: bool) -> RequestsResponse:
    """Send the request to its destination, ``visible`` to the tools that hook into http.client. Raises NotOurs before anything is
    sent, and what stock raises."""
    connect, read = timeouts_of(timeout)
    parts, target = take_apart(request), target_of(request.path_url)
    current, headers, body = current_request.get(), parts.headers, parts.body
    upload = isinstance(body, Body)
    host = parts.host
    if destination.is_configured:
        headers = headers + context_fields(current, parts.names)
        host = host or host_of(destination.upstream.settings.host, current)
    # The upstream's read timeout bounds an upload's pauses as well, and those are the caller's: then BodyFile watches the answer.
    call = Call(request.method or "", target, headers, body, deadline=NO_DEADLINE, host=host, timeout=read,
                connect_timeout=None if destination.is_configured else NEVER if connect is None else connect,
                read_timeout=None if upload else read, head_first=stream)
    if current is not None:
        give_way(current.deadline)
    try:
        if current is not None:
            call.deadline = FixedDeadline(current.deadline) if upload else current.deadline
        response = show(call, str(request.url), destination.upstream.send) if visible else destination.upstream.send(call)
    except BadRequest as error:
        if not upload:
            raise NotOurs from error
        raise requests_error(error, destination, call, request) from error
    except GatewayError as error:
        raise requests_error(error, destination, call, request) from error
    finally:
        if current is not None:
            current.attempts.extend(call.attempts)
    kind = WholeResponse if WholeResponse.suits(response) else RawResponse
    raw = kind(response, call.method, target, destination.label, silence=read if upload else None, late=DeadlineTimeout,
               deadline=None if stream or current is None else call.deadline, clock=destination.upstream.clock)
    if destination.is_configured and 300 < response.status < 400:
        raw.own_origins = redirects.own_origins(destination.upstream, host)
    return adapter.build_response(request, raw)


def context_fields(current: Request | None, names: set[str]) -> Headers:
    """The fields by which an upstream knows the request that is being answered, without those in ``names``, which the call has."""
    if current is None:
        return []
    headers = [("X-Request-Id", current.id)] if current.id and "x-request-id" not in names else []
    if "traceparent" not in names:
        headers += [(name, value) for name in TRACE for value in current.header_list(name)]
    return headers


def host_of(setting: str, current: Request | None) -> str | None:
    """The Host for a configured upstream, by its ``host`` setting; None is the instance's own."""
    if setting == "preserve":
        return current.host or None if current is not None else None
    return None if setting == "upstream" else setting


class StockAdapter(HTTPAdapter):
    """Mounted on a session (``session.mount("https://", StockAdapter())``) it sends the stock way whatever goes there."""


class LazyAdapter(HTTPAdapter):
    """The adapter of new sessions for ``http://`` and ``https://``: a stock adapter that makes its pools on demand.

    To make them is most of the cost of a bare ``requests.get``. Pickled and copied it is a stock adapter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs or type(self) is not LazyAdapter:
            super().__init__(*args, **kwargs)
            return
        self.config = {}
        self.proxy_manager = {}
        self._pool_connections = self._pool_maxsize = DEFAULT_POOLSIZE
        self._pool_block = DEFAULT_POOLBLOCK

    def __getattr__(self, name: str) -> Any:
        if name == "poolmanager":
            self.init_poolmanager(self._pool_connections, self._pool_maxsize, block=self._pool_block)
        elif name == "max_retries":
            self.max_retries = Retry(0, read=False)
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return vars(self)[name]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is not LazyAdapter:
            return super().__reduce_ex__(protocol)
        return HTTPAdapter, (), self.__getstate__()

    def close(self) -> None:
        if vars(self).keys() != FRESH or self.proxy_manager:
            super().close()


def requests_error(error: GatewayError, destination: Destination, call: Call,
                   request: PreparedRequest) -> exceptions.RequestException:
    """The error that stock raises for the same fault, around the one that urllib3 would raise."""
    pool: Any = destination.label
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
