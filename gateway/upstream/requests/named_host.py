"""The name of an upstream as a host that urllib3 can connect to, for calls that a tool keeps on the stock way (hooks.py).

A recorder such as vcrpy brings connections of its own, and those lead to the host of the URL. Within ``connecting(name, instance)``
what urllib3 connects to ``name`` leads to that instance. It holds for one call in one greenlet, so that nothing else, a redirect
from elsewhere for instance, finds an upstream by its name. An instance that speaks TLS cannot be reached so: the URL says http.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from urllib3.util import connection

from ..instance import Instance

stock_create_connection = connection.create_connection
_target: ContextVar[tuple[str, Instance] | None] = ContextVar("target", default=None)


@contextmanager
def connecting(name: str, instance: Instance) -> Iterator[None]:
    token = _target.set((name.lower(), instance))
    try:
        yield
    finally:
        _target.reset(token)


def create_connection(address: tuple[str, int], timeout: Any = None, *arguments: Any, **named: Any) -> socket.socket:
    """``urllib3.util.connection.create_connection``, which knows the name. Raises OSError."""
    target = _target.get()
    if target is None or (address[0].lower(), address[1]) != (target[0], 80):
        return stock_create_connection(address, timeout, *arguments, **named)
    instance = target[1]
    place = instance.connector.address
    if not instance.plain:
        raise OSError(errno.EPROTONOSUPPORT, f"{instance.name} speaks TLS, which a tool that brings its own connections does not"
                                             f" for http://{target[0]}")
    if place.unix_path is None:
        return stock_create_connection((place.host, place.port), timeout, *arguments, **named)
    sock = socket.socket(socket.AF_UNIX)
    try:
        if timeout is None or isinstance(timeout, (int, float)):
            sock.settimeout(timeout)
        sock.connect(place.unix_path)
    except BaseException:
        sock.close()
        raise
    return sock


def install() -> None:
    connection.create_connection = create_connection


def remove() -> None:
    """What has been replaced meanwhile is left to whoever did it, and goes on as stock."""
    if connection.create_connection is create_connection:
        connection.create_connection = stock_create_connection
