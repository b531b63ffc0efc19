"""Views, hooks and error handlers that are coroutines: they run on the shared loop (loop/coroutines.py), as many at once as there
are requests.

A client that goes away ends them, as it does in servers for asyncio: CancelledError is raised where they wait, and what they do
about it is done. Only what cleans up behind a request is not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from .loop.disconnect import unwatch, watch
from .tasks import current_request


def sync_of(function: Callable[..., Coroutine[Any, Any, Any]], is_needed: bool) -> Callable[..., Any]:
    """A coroutine function, for Flask to call. ``is_needed``: also when its client has gone."""
    from .loop.coroutines import run_async  # loads asyncio, which most applications do without

    def call(*args: Any, **kwargs: Any) -> Any:
        request = current_request.get()
        connection = None if request is None or is_needed else request.connection
        if connection is None:
            return run_async(function(*args, **kwargs))
        token = watch(connection.socket)
        try:
            return run_async(function(*args, **kwargs))
        finally:
            unwatch(token)

    return call
