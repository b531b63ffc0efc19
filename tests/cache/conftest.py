"""Real servers for the tests of the cache."""

from __future__ import annotations

import subprocess

import gevent
import pytest
from asking import SAFETY, World
from redis_server import RedisServer
from running import connects, free_port

from tests.e2e.conftest import require  # noqa: F401
from tests.waiting import until


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


@pytest.fixture
def memcached(require):  # noqa: F811
    """The port of a running memcached."""
    port = free_port()
    process = subprocess.Popen([require("memcached"), "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "16", "-u", "nobody"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: connects(port))
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def world():
    """The step, its store and its upstream; see asking.py."""
    with gevent.Timeout(2 * SAFETY, AssertionError("the test hangs")):
        world = World()
        world.cache()
        yield world
