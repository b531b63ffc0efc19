"""Redirects that a session of ``requests`` follows, to and from upstreams of the configuration.

- The names of upstreams are for the application's own calls. A redirect reaches an upstream by its name only from that upstream
  itself, never from a foreign server and never from another upstream: there ``http://users/`` is a host that DNS may know.
- A service that redirects to itself by an address of its own (the Host it was asked with, or one of its instances) stays the same
  upstream: ``http://orders/api/users`` with a Location of ``http://10.0.0.7:8080/api/users/`` goes on to
  ``http://orders/api/users/``. So Authorization, the session's cookies and the balancing stay.

Every request that follows a redirect is a copy of the one before (``PreparedRequest.copy``), and is judged where its place is
chosen, by the URL that it then has: no spelling of a Location and no session's own rules for redirects go past that. A copy that
a program makes itself is judged alike.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.sessions import SessionRedirectMixin

from ..client import Upstream
from .response import RawResponse

DEFAULT_PORTS = {"http": 80, "https": 443}

stock_copy = PreparedRequest.copy
stock_target = SessionRedirectMixin.get_redirect_target


def copy(self: PreparedRequest) -> PreparedRequest:
    """``PreparedRequest.copy``; the copy knows the host of the original."""
    duplicate = stock_copy(self)
    vars(duplicate)["_copy_of"] = own_host(self)
    return duplicate


def own_host(request: PreparedRequest) -> str:
    """The authority of an http URL that the application itself called, or of one that redirected to itself; else empty."""
    try:
        parts = urlsplit(str(request.url))
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2].lower()
    return host if parts.scheme == "http" and may_use_name(request, host) else ""


def may_use_name(request: PreparedRequest, host: str) -> bool:
    """Does ``host``, that of the request's URL, come from the application, and not from a redirect of another host?"""
    return vars(request).get("_copy_of", host) == host


def get_redirect_target(self: SessionRedirectMixin, resp: Response) -> str | None:
    """``Session.get_redirect_target``, where a service's own address is the name by which it was called."""
    target = stock_target(self, resp)
    raw = resp.raw
    if not target or not isinstance(raw, RawResponse):
        return target
    try:
        parts = urlsplit(target)
    except ValueError:                                   # no URL: what to raise for that, stock knows
        return target
    if origin(parts.scheme or "http", parts.netloc) not in raw.own_origins:
        return target
    return parts._replace(scheme="http", netloc=urlsplit(resp.url).netloc).geturl()


def own_origins(upstream: Upstream, host: str | None) -> frozenset[str]:
    """The origins of the instances, and of the Host that they were asked with (None: each its own)."""
    return frozenset(origin(instance.scheme, authority)
                     for instance in upstream.instances for authority in (instance.authority, host or instance.authority))


def origin(scheme: str, authority: str) -> str:
    """One spelling of an origin (RFC 6454 section 4), empty when it is none."""
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.username is None and port else ""


def install() -> None:
    PreparedRequest.copy = copy  # type: ignore[method-assign]
    SessionRedirectMixin.get_redirect_target = get_redirect_target  # type: ignore[method-assign]


def remove() -> None:
    """What has been replaced meanwhile is left to whoever did it, and goes on as stock."""
    if PreparedRequest.copy is copy:
        PreparedRequest.copy = stock_copy  # type: ignore[method-assign]
    if SessionRedirectMixin.get_redirect_target is get_redirect_target:
        SessionRedirectMixin.get_redirect_target = stock_target  # type: ignore[method-assign]
