"""Real servers for the tests of the cache."""

from __future__ import annotations

import pytest
from redis_server import RedisServer

from tests.e2e.conftest import require  # noqa: F401


@pytest.fixture
def redis_server(require, tmp_path):  # noqa: F811
    """``redis_server("--option", "value")`` is a running RedisServer; all are killed at the end."""
    running: list[RedisServer] = []

    def start(*options: str, sentinel: bool = False) -> RedisServer:
        server = RedisServer(require("redis-server"), tmp_path / f"redis{len(running)}", *options, sentinel=sentinel)
        running.append(server)
        return server

    yield start
    for server in running:
        server.kill()
