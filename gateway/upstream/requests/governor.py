"""A governed call: where it goes, and its exchange with that place.

adapter.py, by which calls come here, says which rules hold.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from requests import PreparedRequest
from requests import Response as RequestsResponse
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import exceptions as urllib3_exceptions

from ...deadline import Deadline
from ...errors import BadRequest, GatewayError
from ...loop.native_threads import event_loop, native_thread
from ...message import Body, Call, Headers, Request
from ...tasks import current_request, give_way
from ..client import Upstream
from .call import FixedDeadline, NotOurs, take_apart, target_of, timeouts_of
from .destinations import NEVER, Destination, Destinations
from .exceptions import DeadlineTimeout, requests_error
from .hooks import show
from .redirects import may_use_name, own_origins
from .response import RawResponse, WholeResponse

TRACE = ("traceparent", "tracestate")


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


def destination_of(request: PreparedRequest, verify: Any, cert: Any, proxies: Any) -> Destination:
    """The destination of a request; for a configured upstream, whatever the proxies. Raises NotOurs."""
    try:
        parts = urlsplit(request.url or "")
    except ValueError:
        raise NotOurs
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
    return destination if destination is not None and may_use_name(request, name) else None


def is_certificate(cert: Any) -> bool:
    """Is it None, a file, or a file and that of its key?"""
    return cert is None or type(cert) is str or type(cert) is tuple and len(cert) == 2


def exchange(adapter: HTTPAdapter, destination: Destination, request: PreparedRequest, stream: Any, timeout: Any,
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
                read_timeout=None if upload else read, head_first=bool(stream))
    if current is not None:
        give_way(current.deadline)
    try:
        if current is not None:
            call.deadline = FixedDeadline(current.deadline) if upload else current.deadline
        response = show(call, str(request.url), destination.upstream.send) if visible else destination.upstream.send(call)
    except BadRequest as error:
        if not upload:
            raise NotOurs
        raise requests_error(error, destination.label, call, request)
    except GatewayError as error:
        raise requests_error(error, destination.label, call, request)
    finally:
        if current is not None:
            current.attempts.extend(call.attempts)
    kind = WholeResponse if WholeResponse.suits(response) else RawResponse
    raw = kind(response, call.method, target, destination.label, silence=read if upload else None, late=DeadlineTimeout,
               deadline=None if stream or current is None else call.deadline, clock=destination.upstream.clock)
    if destination.is_configured and 300 < response.status < 400:
        raw.own_origins = own_origins(destination.upstream, host)
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
