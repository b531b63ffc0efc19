"""The step that finds the route of a request; what the route asks for follows inside it."""

from __future__ import annotations

from ..message import Request, Response, RouteEntry
from .table import Table


class Match:
    """Step: find the route and start its deadline; the route's own steps go on. Raises NoRoute and MethodNotAllowed."""

    def __init__(self, table: Table[RouteEntry]) -> None:
        self.table = table

    def __call__(self, request: Request) -> Response:
        entry, request.params = self.table.match(request)
        request.entry = entry
        if entry.timeout is not None:
            request.deadline.change(entry.timeout)
        return entry.handler(request)

    def __repr__(self) -> str:
        return f"match: {self.table!r}"
