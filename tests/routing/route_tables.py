"""Tables of routes whose targets are their paths, and what they answer."""

from __future__ import annotations

from gateway.config import Route
from gateway.errors import MethodNotAllowed, NoRoute
from gateway.message import Request
from gateway.routing.table import Table


def routed(*routes, **settings):
    """A table of paths, or of routes, whose targets are the paths as they are written."""
    made = [route if isinstance(route, Route) else Route(path=route, **settings) for route in routes]
    return Table((route, route.name) for route in made)


def ask(method="GET", target="/", host="", headers=()):
    return Request(method, target, list(headers), host=host)


def winner(table, request):
    try:
        return table.match(request)[0]
    except (NoRoute, MethodNotAllowed) as error:
        return error.status
