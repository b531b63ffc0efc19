"""Whoever has changed something sees the change: real workers that each have the old answer in memory, and a Redis that has it too.

After the answer to a POST, no connection to any worker of the machine gets what was there before. The numbers are of answers, not
of time.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
from pathlib import Path

import gevent
import pytest
from gevent.server import StreamServer
from redis_server import RedisServer
from running import Running, ask

from tests.waiting import PATIENT, until

ROUNDS = 40
CONFIG = """
[gateway]
timeout = "2s"

[cache]
{storage}

[upstreams.origin]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "origin"
cache = {{}}

[[routes]]
path = "/composed"
methods = ["GET", "POST"]
cache = {{ ttl = "1h" }}
[routes.aggregate]
one = "origin:/part"
"""

pytestmark = pytest.mark.leaks_allowed      # module-wide servers: connections come and go between tests


class Shop:
    """Keeps a number for each path; a POST adds one, and then ends as its query says."""

    def __init__(self):
        self.numbers = {}

    def __call__(self, sock, address):
        try:
            while head := self.head(sock):
                method, target = head.split(" ")[:2]
                path, _, how = target.partition("?")
                if method == "POST":
                    self.numbers[path] = self.numbers.get(path, 0) + (not how.startswith("status="))
                if method == "POST" and not self.ended(sock, how):
                    return
                if method != "POST":
                    body = b'{"number": %d}' % self.numbers.get(path, 0)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Type: application/json\r\n"
                                 b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        except OSError:
            return
        finally:
            sock.close()

    def head(self, sock):
        data = b""
        while b"\r\n\r\n" not in data and (piece := sock.recv(65536)):
            data += piece
        return data.decode("latin-1")

    def ended(self, sock, how):
        """Answer a POST; whether the connection goes on."""
        if how.startswith("status="):
            sock.sendall(f"HTTP/1.1 {how[7:]} Said\r\nContent-Length: 0\r\n\r\n".encode())
        elif how == "reset":
            return False
        elif how == "late":
            gevent.sleep(30)
        elif how == "cut":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            return False
        elif how == "cut-late":                              # too large to be read before it goes on
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf")
            return False
        elif how == "nonsense":
            sock.sendall(b"nonsense\r\n\r\n")
            return False
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True


@pytest.fixture(scope="module")
def shop():
    shop = Shop()
    server = StreamServer(("127.0.0.1", 0), shop)
    server.start()
    shop.port = server.server_port
    yield shop
    server.stop(timeout=0)


@pytest.fixture(params=["memory", "redis", "file"])
def gateway(request, shop, tmp_path, require):
    storage, redis = {"memory": "", "file": f'file = "{tmp_path}/cache"'}.get(request.param), None
    if storage is None:
        redis = RedisServer(require("redis-server"), tmp_path / "redis")
        storage = f'redis = "{redis.url}"\ntimeout = "{PATIENT}"'
    running = Running(tmp_path, CONFIG.format(storage=storage, port=shop.port), workers=2,
                      environ={"GATEWAY_RUN_DIR": str(tmp_path / "run")})
    yield running
    running.stop()
    if redis is not None:
        redis.kill()


def get(gateway, path):
    status, _, body = ask(gateway.port, f"GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n".encode())
    return status, int(re.search(rb"\d+", body)[0])


def post(gateway, target, timeout=20):
    head = f"POST {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    return ask(gateway.port, head.encode(), timeout=timeout)


def of_each(gateway, path):
    """What each worker answers: while it is asked, the others stand still. The kernel may give all connections to one of them."""
    workers, answers = gateway.workers(), []
    for worker in workers:
        others = [pid for pid in workers if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: all(state(pid) == "T" for pid in others))      # the signal is on its way when kill() returns
            answers.append(get(gateway, path))
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
    return answers


def state(pid):
    """What a process is doing: ``T`` is that it stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


warm = of_each


def test_no_answer_after_a_post_is_from_before_it(gateway, shop):
    old, asked = 0, 0
    for number in range(ROUNDS):
        path = f"/{os.urandom(4).hex()}"
        shop.numbers[path] = 1
        warm(gateway, path)
        assert post(gateway, path)[0] == 200
        answers = [get(gateway, path) for _ in range(4)]
        old += sum(answer != (200, 2) for answer in answers)
        asked += len(answers)
    assert (old, asked) == (0, 4 * ROUNDS)


# How a POST ends for the upstream, and whether it may have changed something.
@pytest.mark.parametrize("how, changed", [
    ("", True), ("reset", True), ("late", True), ("cut", True), ("cut-late", True), ("nonsense", True), ("status=504", True),
    ("status=302", True), ("status=400", False), ("status=404", False), ("status=500", False), ("status=502", False),
    ("status=503", False)])
@pytest.mark.parametrize("gateway", ["memory"], indirect=True)
def test_a_post_of_which_nobody_knows_what_it_did_makes_invalid(gateway, shop, how, changed):
    path = f"/{os.urandom(4).hex()}"
    target = f"{path}?{how}"
    shop.numbers[path] = 1
    warm(gateway, target)
    shop.numbers[path] = 5
    post(gateway, target)
    assert {number for _, number in of_each(gateway, target)} == {shop.numbers[path] if changed else 1}


@pytest.mark.parametrize("gateway", ["memory"], indirect=True)
def test_a_post_whose_client_left_makes_invalid(gateway, shop):
    path = f"/{os.urandom(4).hex()}?late"
    shop.numbers[path.partition("?")[0]] = 1
    warm(gateway, path)
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n".encode())
        until(lambda: shop.numbers[path.partition("?")[0]] > 1)
    until(lambda: {get(gateway, path)[1] for _ in range(6)} == {2}, "the client is known to have left")


@pytest.mark.parametrize("gateway", ["memory"], indirect=True)
def test_a_composition_that_changes_something_too(gateway, shop):
    shop.numbers["/part"] = 1
    warm(gateway, "/composed")
    shop.numbers["/part"] = 2
    assert post(gateway, "/composed")[0] == 200
    assert of_each(gateway, "/composed") == [(200, 2), (200, 2)]


@pytest.mark.parametrize("gateway", ["memory", "file"], indirect=True)
@pytest.mark.parametrize("kind", ["worker", "lock"])
def test_whoever_stands_still_keeps_nobody_waiting(gateway, shop, tmp_path, kind):
    """A worker that was stopped; a process that holds the lock of each file in the folders that the workers share."""
    path = f"/{os.urandom(4).hex()}"
    shop.numbers[path] = 1
    warm(gateway, path)
    held = []
    stopped = gateway.workers()[0] if kind == "worker" else None
    try:
        if stopped is not None:
            os.kill(stopped, signal.SIGSTOP)
        for place in (Path(folder) / name for top in ("run", "cache") for folder, _, names in os.walk(tmp_path / top)
                      for name in names if kind == "lock"):
            held.append(os.open(place, os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for number in range(5 if kind == "worker" else 20):
            answered = None
            for _ in range(40):                          # what the kernel gave to the stopped one is tried again
                try:
                    answered = post(gateway, path, timeout=1.5 if stopped else 20)
                    break
                except TimeoutError:
                    continue
            assert answered is not None and answered[0] == 200
    finally:
        for each in held:
            os.close(each)
        if stopped is not None:
            os.kill(stopped, signal.SIGCONT)
    warm(gateway, path)
    assert {get(gateway, path)[1] for _ in range(10)} == {shop.numbers[path]}, "nor misses what it did not hear"
