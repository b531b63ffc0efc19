"""The work that is measured. One table, ``CASES``; what is not plain load is in special.py.

Before a server is measured its answer is compared with what it should be, byte for byte, or value for value where it is JSON
that the server made itself.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import NamedTuple

from .load import measured
from .machine import Failed
from .peers.payload import HELLO
from .servers import Running
from .special import bystanders, idle
from .upstream import ITEMS, JSON, LARGE, ORDERS, POSTED, TEAM, USER

PYTHON = ("aiohttp", "starlette", "quart", "flask-gevent", "flask-gthread", "flask-sync")
BUILDS = ("gateway", "gateway-compiled")
EVERYBODY = (*BUILDS, *PYTHON, "nginx", "envoy")
COMPOSED = json.dumps({"user": json.loads(USER), "orders": json.loads(ORDERS), "team": json.loads(TEAM)}).encode()
VIEWED = json.dumps({"from": "view", "items": ITEMS}).encode()


class Case(NamedTuple):
    """``expected`` is the body of the right answer; ``exact`` false when it is JSON that only has to mean the same."""

    name: str
    title: str
    path: str
    expected: bytes
    servers: tuple[str, ...]
    connections: int = 64
    method: str = "GET"
    exact: bool = True
    routes: int = 0
    special: Callable[[Running, float], dict[str, float]] | None = None

    def measure(self, running: Running, seconds: float) -> dict[str, float]:
        """Raises Failed."""
        if self.special is not None:
            return self.special(running, seconds)
        routes = int(running.server.name.split("-")[1]) if self.routes else 0
        body = None
        if self.method == "POST":
            body = running.place / "posted.json"
            body.write_bytes(POSTED)

        def load(length: float) -> dict[str, float]:
            return measured(running, self.path, seconds=length, connections=self.connections, method=self.method, body=body,
                            routes=routes)

        load(1)                                              # caches, pools and the processor's clock are warm then
        return load(seconds)

    def check(self, running: Running) -> None:
        """Raises Failed when the answer is not the right one."""
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        try:
            for _ in range(2):                               # the second on a kept connection, where there is one
                client.request(self.method, self.path, body=POSTED if self.method == "POST" else None,
                               headers={"Content-Type": "application/json"} if self.method == "POST" else {})
                answer = client.getresponse()
                body = answer.read()
                right = body == self.expected if self.exact else json.loads(body) == json.loads(self.expected)
                if answer.status != 200 or not right:
                    raise Failed(f"wrong answer to {self.method} {self.path}: {answer.status}, {body[:300]!r}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"no answer to {self.method} {self.path}: {error!r}") from error
        finally:
            client.close()


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in EVERYBODY if name not in names)


HELLO_BYTES = HELLO.encode()
WORKERS = ("gateway", "gateway-2-workers")
CASES = {case.name: case for case in (
    Case("hello", "answer from memory, 1 KB", "/hello", HELLO_BYTES, EVERYBODY),
    Case("hit", "hit of the cache, 1 KB", "/cached/json", JSON, BUILDS),
    Case("json", "proxy 1 KB of JSON", "/json", JSON, EVERYBODY),
    Case("100k", "proxy 100 KB", "/100k", LARGE, EVERYBODY),
    Case("echo", "POST 1 KB of JSON, proxied", "/echo", POSTED, EVERYBODY, method="POST"),
    Case("compose", "compose three calls", "/compose", COMPOSED, without("nginx", "envoy"), exact=False),
    Case("view", "view with one `requests.get`", "/view", VIEWED,
         (*BUILDS, "quart", "flask-gevent", "flask-gthread", "flask-sync"), exact=False),
    Case("slow-256", "50 ms upstream, 256 connections", "/slow", JSON, without("flask-sync"), connections=256),
    Case("slow-1000", "50 ms upstream, 1,000 connections", "/slow", JSON, without("flask-sync", "flask-gthread"),
         connections=1000),
    Case("routes", "10 and 10,000 routes, all in turn", "/service-7/orders/1", JSON,
         ("gateway-10-routes", "gateway-10000-routes"), routes=1),
    Case("idle", "10,000 idle connections", "/hello", HELLO_BYTES, ("gateway", "aiohttp"), special=idle),
    Case("bystanders", "bystanders while 500 requests hang", "/json", JSON, ("gateway",), special=bystanders),
    Case("workers-hello", "two workers: answer from memory", "/hello", HELLO_BYTES, WORKERS),
    Case("workers-json", "two workers: proxy 1 KB of JSON", "/json", JSON, WORKERS),
    Case("workers-view", "two workers: view with one `requests.get`", "/view", VIEWED, WORKERS, exact=False),
)}
