"""Caching. ``from gateway import cache`` gives this package, which application code uses as its one Flask-Caching object.

``@cache.memoize(60)``, ``@cache.cached(...)``, ``cache.get``, ``cache.set`` and everything else of ``flask_caching.Cache`` are
those of ``gateway.view_cache.view_cache``; Flask-Caching is imported with the first of them.
"""

from __future__ import annotations

from pkgutil import iter_modules
from typing import Any

FILES = {module.name for module in iter_modules(__path__)}


def __getattr__(name: str) -> Any:
    if name in FILES or name.startswith("__"):           # what the import system asks a package for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..view_cache import view_cache
    return getattr(view_cache, name)
