"""Replaces ``create_connection`` of urllib3, so that a recorder's own connections reach an upstream by its name.

A recorder such as vcrpy keeps calls on the stock way (hooks.py), where urllib3 connects to the host of the URL. Within
``host_alias(name, instance)`` the host ``name`` is that instance. The alias holds for one call in one greenlet: nothing else, such
as a redirect from elsewhere, finds an upstream by its name. An instance that speaks TLS cannot be reached so: the URL says http.
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
def host_alias(name: str, instance: Instance) -> Iterator[None]:
    """Have urllib3 connect to ``instance`` where the URL says ``http://<name>/``."""
    token = _target.set((name.lower(), instance))
    try:
        yield
    finally:
        _target.reset(token)


def create_connection(address: tuple[str, int], timeout: Any = None, *arguments: Any, **keywords: Any) -> socket.socket:
    """``urllib3.util.connection.create_connection``, which knows the alias. Raises OSError."""
    target = _target.get()
    if target is None or (address[0].lower(), address[1]) != (target[0], 80):
        return stock_create_connection(address, timeout, *arguments, **keywords)
    instance = target[1]
    origin = instance.connector.address
    if not instance.plain:
        raise OSError(errno.EPROTONOSUPPORT, f"{instance.name} speaks TLS, which a tool that brings its own connections does not"
                                             f" for http://{target[0]}")
    if origin.unix_path is None:
        return stock_create_connection((origin.host, origin.port), timeout, *arguments, **keywords)
    sock = socket.socket(socket.AF_UNIX)
    try:
        if timeout is None or isinstance(timeout, (int, float)):
            sock.settimeout(timeout)
        sock.connect(origin.unix_path)
    except BaseException:
        sock.close()
        raise
    return sock


def install() -> None:
    connection.create_connection = create_connection


def remove() -> None:
    """Undo ``install``; a function that somebody has put over ours stays, and goes on as stock."""
    if connection.create_connection is create_connection:
        connection.create_connection = stock_create_connection
