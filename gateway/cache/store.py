"""The cache of view code: one Flask-Caching object for the process, set up for the application by ``init``.

It is for memoizing in application code, where the author chooses the key. It is no HTTP cache: it knows nothing of
Cache-Control, Vary, methods or users. docs/cache.md says what that means for ``cached()``.
"""

from __future__ import annotations

from flask import Flask
from flask_caching import Cache

view_cache = Cache()


def init(app: Flask) -> None:
    """Set ``view_cache`` up for ``app`` from its ``CACHE_*`` settings. Without CACHE_TYPE: in the memory of each worker."""
    app.config.setdefault("CACHE_TYPE", "SimpleCache")
    view_cache.init_app(app)
