"""Real servers for the tests of the cache, and workers over them."""

from __future__ import annotations

import subprocess
import time

import gevent
import pytest
from asking import World
from redis_server import RedisServer
from running import connects, free_port

from gateway.cache.storage.construction import store_of
from gateway.config import CacheStorage
from tests.e2e.conftest import require  # noqa: F401
from tests.waiting import PATIENT, SAFETY, until


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


@pytest.fixture
def workers(world, redis_server):
    """Three workers with one upstream and one Redis."""
    server = world.redis = redis_server()
    found = []
    for _ in range(3):
        worker = World()
        worker.store = store_of(CacheStorage(redis=server.url, timeout=PATIENT))
        worker.store.patience = SAFETY                   # a busy machine is not what this is about
        worker.seen = world.seen
        worker.clock = time.time                         # the log of purges begins with one of everything
        worker.cache()
        worker.store.start()
        found.append(worker)
    for worker in found:
        until(lambda: worker.store.leases.usable and time.time() > worker.store.marks.hard.floor)
    yield found
    for worker in found:
        worker.store.stop()
