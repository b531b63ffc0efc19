"""Where an instance lives: the URL of the configuration, taken apart. Pure.

::

    http://10.0.0.5:8000    https://orders.internal    http://[::1]:8080    unix:/run/orders.sock

A URL names a place and nothing else: user information, a path, a query or a fragment are mistakes, and said to be.
"""

from __future__ import annotations

import re
from typing import NamedTuple

URL = re.compile(r"(?P<scheme>https?)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]|(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*)?)(?::(?P<port>[^:]*))?",
                  re.DOTALL)
PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """``scheme`` is http or https; ``host`` has no brackets and is "localhost" for a unix socket, whose path is ``unix_path``."""

    scheme: str
    host: str
    port: int
    unix_path: str | None

    @property
    def authority(self) -> str:
        """What Host gets: brackets around IPv6 and no zone, no default port."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.unix_path is not None or self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_instance(url: str) -> Address:
    """The parts of an instance's URL. Raises ValueError with a sentence that says what is wrong with it."""
    if url.startswith("unix:"):
        return _unix(url)
    match = URL.fullmatch(url)
    if not match:
        raise ValueError(f"{url!r} is not an instance: write http://host:port, https://host or unix:/path/to.sock")
    scheme, rest = match["scheme"].lower(), match["rest"]
    for mark, part in (("#", "a fragment"), ("?", "a query")):
        if mark in rest:
            raise ValueError(f"{url!r} has {part}: an instance is only scheme, host and port")
    rest, slash, path = rest.partition("/")
    if path:
        raise ValueError(f"{url!r} has a path: an instance is only scheme, host and port")
    if "@" in rest:
        raise ValueError(f"{url!r} has a user name: send an Authorization header instead")
    return _place(url, scheme, rest)


def _place(url: str, scheme: str, rest: str) -> Address:
    match = HOST.fullmatch(rest)
    if not match:
        raise ValueError(f"{url!r}: {rest!r} is not a host, or a host and a port (IPv6 goes in brackets)")
    host, port = match["host"].strip("[]").replace("%25", "%"), match["port"]
    if not host:
        raise ValueError(f"{url!r} has no host")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{url!r}: {port!r} is not a port between 1 and 65535")
    return Address(scheme, host, int(port) if port is not None else PORTS[scheme], None)


def _unix(url: str) -> Address:
    path = url[len("unix:"):]
    if path.startswith("//"):
        path = path[2:]
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError(f"{url!r} needs the absolute path of a socket: unix:/path/to.sock")
    if len(path.encode()) > 107:
        raise ValueError(f"{url!r}: a unix socket's path has at most 107 bytes")
    return Address("http", "localhost", 0, path)
