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

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests.sessions
from requests import PreparedRequest
from requests import Response as RequestsResponse
from requests import exceptions
from requests.adapters import DEFAULT_POOLBLOCK, DEFAULT_POOLSIZE, HTTPAdapter
from urllib3.poolmanager import PoolManager
from urllib3.util.retry import Retry

from ...tasks import current_request
from ..client import Upstream
from . import redirects, shortcuts, urllib3_connect
from .call import NotOurs
from .exceptions import DeadlineTimeout, gateway_error
from .governor import destination_of, exchange, governor, host_of, named_destination
from .hooks import Way, hooks

FRESH = {"config", "proxy_manager", "_pool_connections", "_pool_maxsize", "_pool_block"}
STOCK_RETRIES = vars(Retry(0, read=False))
STOCK_POOL = {"maxsize": DEFAULT_POOLSIZE, "block": DEFAULT_POOLBLOCK}

stock_send = HTTPAdapter.send


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


__all__ = ["DeadlineTimeout", "LazyAdapter", "StockAdapter", "gateway_error", "govern_requests", "governor",
           "ungovern_requests"]
