"""Wicketgate: the gateway for a codebase that is synchronous and has to stay alive while it is replaced.

What application code uses is here, loaded when it is first asked for: ``import gateway`` itself imports no library, so that the
command line starts fast and nothing is imported before gevent has patched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import build as build  # noqa: F401  (first of all: it decides how the other modules are found)

if TYPE_CHECKING:
    from . import cache as cache
    from . import errors as errors
    from .app import create_app as create_app
    from .app import static_url as static_url
    from .loop.asyncio_import import enable_asyncio as enable_asyncio
    from .loop.coroutines import run_async as run_async
    from .loop.coroutines import run_sync as run_sync
    from .message import Handler as Handler
    from .message import Request as Request
    from .message import Response as Response
    from .tasks import gather as gather
    from .upstream.requests.adapter import StockAdapter as StockAdapter
    from .upstream.requests.adapter import govern_requests as govern_requests

__version__ = "0.1.0"

HOMES = {"Handler": ".message", "Request": ".message", "Response": ".message", "StockAdapter": ".upstream.requests.adapter",
         "create_app": ".app", "enable_asyncio": ".loop.asyncio_import", "gather": ".tasks",
         "govern_requests": ".upstream.requests.adapter", "run_async": ".loop.coroutines", "run_sync": ".loop.coroutines",
         "static_url": ".app"}
MODULES = {"cache", "errors"}                            # the first behaves like the cache object of Flask-Caching


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f".{name}", __name__)
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES, *MODULES})


__all__ = ["Handler", "Request", "Response", "StockAdapter", "__version__", "cache", "create_app", "enable_asyncio", "errors",
           "gather", "govern_requests", "run_async", "run_sync", "static_url"]
