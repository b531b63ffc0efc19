"""Where a call of ``requests`` goes: a configured upstream by its name, or one made for a foreign place when it is first called.

A foreign place is scheme, host, port, and the TLS settings the call asks for. At most LIMIT are kept; the one called longest ago is
closed. Its upstream has no times of its own, as ``requests`` has none: what a call asks for is given to it by ``timed``.

Connections belong to the event loop of one native thread and to one process, so each thread has Places of its own, and a forked
process begins with empty ones.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from urllib.parse import urlsplit

import certifi

from ..config import Tls
from ..config import Upstream as Settings
from ..errors import ConfigError
from .balancer import RULES, Balancer
from .client import Instance, Upstream
from .connecting import Connector
from .limit import Limit
from .transport import Connection

LIMIT = 256
TIMES = 16                                               # pairs of timeouts remembered for a place
NEVER = 365 * 86400.0                                    # seconds
Verify = bool | str
Certificate = str | tuple[str, str] | None


class Place:
    """An upstream, and the same with other times. ``named``: it is configured, and keeps its own connect timeout. ``label``
    is what urllib3 calls a place in its errors."""

    def __init__(self, upstream: Upstream, label: str, named: bool) -> None:
        self.upstream = upstream
        self.label = label
        self.named = named
        self._timed: dict[tuple[float | None, float | None], Upstream] = {}

    def timed(self, connect: float | None, read: float | None) -> Upstream:
        """The upstream with these timeouts in seconds; its connections and their limits are the same."""
        if connect is read is None:
            return self.upstream
        key = connect, read
        found = self._timed.get(key)
        if found is None:
            if len(self._timed) >= TIMES:
                self._timed.clear()
            found = self._timed[key] = self._make(connect, read)
        return found

    def _make(self, connect: float | None, read: float | None) -> Upstream:
        twin = copy(self.upstream)
        if read is not None:
            twin.settings = twin.settings.model_copy(update={"read_timeout": read, "timeout": read})
        if not self.named:
            twin.instances = [patient(instance, connect) for instance in twin.instances]
            twin.balancer = Balancer(twin.instances, RULES[twin.settings.balance])
        return twin

    def __repr__(self) -> str:
        return f"Place({self.upstream!r})"


class PatientConnector(Connector):
    """Connects within its own timeout only; the time of the attempt begins when there is a connection."""

    def connect(self, limit: Limit) -> Connection:
        connection = super().connect(Limit(limit.deadline, None, limit.error))
        limit.restart()
        return connection


def patient(instance: Instance, connect: float | None) -> Instance:
    """The same instance with another connect timeout."""
    base = instance.connector
    twin = copy(instance)
    twin.connector = PatientConnector(base.address, base.resolver, NEVER if connect is None else connect, base.context,
                                      base.server_name)
    return twin


class Places:
    """The places of one native thread in one process. ``names`` are the configured upstreams it may use."""

    def __init__(self, names: Mapping[str, Upstream]) -> None:
        self.process = os.getpid()
        self.names = {name.lower(): Place(upstream, label("http", name, 80), named=True) for name, upstream in names.items()}
        self._foreign: OrderedDict[tuple[str, str, Verify, Certificate], Place] = OrderedDict()

    def foreign(self, scheme: str, netloc: str, verify: Verify, cert: Certificate) -> Place | None:
        """The place with that authority (no user information); None when it is nothing we can connect to."""
        key = scheme, netloc, verify, cert
        place = self._foreign.get(key)
        if place is not None:
            self._foreign.move_to_end(key)
            return place
        place = open_place(scheme, netloc, verify, cert)
        if place is None:
            return None
        self._foreign[key] = place
        if len(self._foreign) > LIMIT:
            self._foreign.popitem(last=False)[1].upstream.close()
        return place

    def close(self) -> None:
        """Close the unused connections to foreign places; the configured upstreams belong to who gave them."""
        while self._foreign:
            self._foreign.popitem()[1].upstream.close()

    def __repr__(self) -> str:
        return f"Places({len(self.names)} named, {len(self._foreign)} foreign)"


def open_place(scheme: str, netloc: str, verify: Verify, cert: Certificate) -> Place | None:
    """A place for a URL's authority, None when it cannot be one."""
    try:
        parts = urlsplit(f"{scheme}://{netloc}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if not host.isascii() or host.endswith(".") or "%" in host or port == 0:
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
        return Place(Upstream(netloc, settings), label(scheme, host, port), named=False)
    except (ConfigError, ValueError):
        return None


def label(scheme: str, host: str, port: int | None) -> str:
    kind, usual = ("HTTPSConnectionPool", 443) if scheme == "https" else ("HTTPConnectionPool", 80)
    return f"{kind}(host={host!r}, port={port or usual})"
