"""Destinations of calls of ``requests``: configured upstreams, by their names, and foreign ones.

A foreign destination is scheme, host, port and TLS settings; an upstream is made for it at the first call, without timeouts of its
own, as ``requests`` has none: a call brings its own. Their number is bounded: the one called longest ago is closed.

Connections belong to the event loop of one native thread and to one process, so each thread has its own Destinations, and a forked
process begins with empty ones.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

import certifi

from ...config import Tls
from ...config import UpstreamSettings as Settings
from ...errors import ConfigError
from ..client import Upstream

LIMIT = 256
NEVER = 365 * 86400.0                                    # seconds
Verify = bool | str
Certificate = str | tuple[str, str] | None


class Destination:
    """An upstream. ``is_configured``: it is one of the configuration, and keeps its own connect timeout. ``label`` is the name of
    the destination in errors of urllib3."""

    def __init__(self, upstream: Upstream, label: str, is_configured: bool) -> None:
        self.upstream = upstream
        self.label = label
        self.is_configured = is_configured

    def __repr__(self) -> str:
        return f"Destination({self.upstream!r})"


class Destinations:
    """The destinations of one native thread in one process. ``names`` are the configured upstreams it may use, ``limit`` is the
    most of foreign destinations."""

    def __init__(self, names: Mapping[str, Upstream], limit: int = LIMIT) -> None:
        self.process = os.getpid()
        self.limit = limit
        self.names = {name.lower(): Destination(upstream, label("http", name, 80), is_configured=True)
                      for name, upstream in names.items()}
        self._foreign: OrderedDict[tuple[str, str, Verify, Certificate], Destination] = OrderedDict()

    def foreign(self, scheme: str, netloc: str, verify: Verify, cert: Certificate) -> Destination | None:
        """The destination with that authority (without user information); None when it is none we can connect to."""
        key = scheme, netloc, verify, cert
        destination = self._foreign.get(key)
        if destination is not None:
            self._foreign.move_to_end(key)
            return destination
        destination = open_destination(scheme, netloc, verify, cert)
        if destination is None:
            return None
        self._foreign[key] = destination
        if len(self._foreign) > self.limit:
            self._foreign.popitem(last=False)[1].upstream.close()
        return destination

    def close(self) -> None:
        """Close the unused connections to foreign destinations; the configured upstreams belong to who gave them."""
        while self._foreign:
            self._foreign.popitem()[1].upstream.close()

    def __repr__(self) -> str:
        return f"Destinations({len(self.names)} named, {len(self._foreign)} foreign)"


def open_destination(scheme: str, netloc: str, verify: Verify, cert: Certificate) -> Destination | None:
    """A destination for a URL's authority, None when it cannot be one."""
    try:
        parts = urlsplit(f"{scheme}://{netloc}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if not host.isascii() or "%" in host or port == 0 or not all(0 < len(label) < 64 for label in host.split(".")):
        return None
    authority = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{authority}" if port is None else f"{scheme}://{authority}:{port}"
    tls = Tls()
    if scheme == "https":
        certificate, key = cert if isinstance(cert, tuple) else (cert, None)
        tls = Tls(verify=bool(verify), ca=certifi.where() if verify is True else verify or None, certificate=certificate, key=key)
        if not all(os.path.isfile(name) for name in (tls.ca, certificate, key) if name):
            return None
    try:
        settings = Settings(instances=(url,)).model_copy(update={"connect_timeout": NEVER, "read_timeout": NEVER, "tls": tls})
        return Destination(Upstream(netloc, settings), label(scheme, host, port), is_configured=False)
    except (ConfigError, ValueError):
        return None


def label(scheme: str, host: str, port: int | None) -> str:
    kind, usual = ("HTTPSConnectionPool", 443) if scheme == "https" else ("HTTPConnectionPool", 80)
    return f"{kind}(host={host!r}, port={port or usual})"
