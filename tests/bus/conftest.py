"""Real servers for the tests of the bus, those of the cache."""

from __future__ import annotations

from tests.cache.conftest import redis_server, require  # noqa: F401
