"""Shared fixtures. The test process is patched like a worker: first thing, everything."""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import os  # noqa: E402
import weakref  # noqa: E402

import gevent  # noqa: E402
import pytest  # noqa: E402
from gevent.server import StreamServer  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from gateway.build import RUNNING  # noqa: E402
from tests.waiting import until  # noqa: E402

settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow])   # on a busy machine
settings.load_profile("gateway")

STARTED: weakref.WeakSet[gevent.Greenlet] = weakref.WeakSet()
gevent.Greenlet.add_spawn_callback(STARTED.add)


def pytest_report_header():
    return f"gateway: {RUNNING} {RUNNING.notice}"


def pytest_collection_finish():
    """What was collected stays: the collector need not look at it again, after each test that leaves something to collect."""
    gc.collect()
    gc.freeze()


def live_greenlets() -> set[gevent.Greenlet]:
    """The greenlets that were started and have not ended."""
    return {greenlet for greenlet in STARTED if not greenlet.dead}


def open_sockets() -> set[str]:
    """``fd:inode`` of every socket this process holds."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:                                  # the directory's own descriptor is gone by now
            continue
        if link.startswith("socket:"):
            found.add(f"{fd}:{link}")
    return found


@pytest.fixture(autouse=True)
def leaks(request):
    """Fail a test that leaves a greenlet or a socket behind. Mark it ``leaks_allowed`` where that is the point."""
    if request.node.get_closest_marker("leaks_allowed"):
        yield
        return
    greenlets, sockets = live_greenlets(), open_sockets()
    yield
    left: tuple[set, set] = set(), set()

    def nothing_left() -> bool:
        nonlocal left
        if any(left):
            gc.collect()
        left = live_greenlets() - greenlets, open_sockets() - sockets
        return not any(left)

    try:
        until(nothing_left, limit=10)                    # what is ending may need some turns of the loop
    except AssertionError:
        pytest.fail(f"leaked greenlets {left[0]} sockets {sorted(left[1])}")


@pytest.fixture
def serve():
    """``serve(handle)`` runs ``handle(socket, address)`` for each connection to a TCP server on loopback and returns its port."""
    servers = []

    def start(handle) -> int:
        server = StreamServer(("127.0.0.1", 0), handle)
        server.start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.stop(timeout=0)
