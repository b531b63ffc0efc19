"""Copies of a request, for work that goes on with other header fields or beside the request.

``edit`` is the same request with other fields: it shares everything else, the list of attempts among it. ``detach`` is a request
of its own: no client is waiting for it, its deadline starts anew, and what is noted of it is in no log line of the original.
"""

from __future__ import annotations

from collections.abc import Set

from .deadline import Deadline
from .message import Headers, Request
from .wsgi import without_client


def edit(request: Request, remove: Set[str], add: Headers) -> Request:
    """The request without the fields ``remove``, named in lower case, and with those of ``add``."""
    duplicate = request.copy()
    duplicate.headers = [field for field in request.headers if field[0].lower() not in remove] + add
    return duplicate


def detach(request: Request) -> Request:
    """The request without its client, which may leave, and with its whole time again. A HEAD becomes a GET, since what is fetched
    beside it is for both. The body is the original's: unless it is buffered, only one of the two can read it."""
    duplicate = request.copy()
    if duplicate.method == "HEAD":
        duplicate.method = "GET"
    duplicate.environ, duplicate.connection = without_client(request), None
    duplicate.attempts, duplicate.notes = [], {}
    duplicate.deadline = Deadline(request.deadline.seconds)
    return duplicate
