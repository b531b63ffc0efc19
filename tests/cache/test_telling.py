"""What unsafe requests have changed: who hears of it, and of what nobody needs to."""

from __future__ import annotations

import pytest
from stored import until

from gateway.cache.httpstore import HttpStore
from gateway.cache.invalidate import forget
from gateway.cache.memory import Memory
from gateway.configfile import load_text
from gateway.message import Request, Response
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry


class Told:
    """A channel that writes down what it is told, each time."""

    def __init__(self):
        self.times = []

    def write(self, *purges):
        self.times.append([purge.value for purge in purges])
        return True

    def stop(self):
        self.times.append("stopped")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def store(told):
    return HttpStore(Memory(2 ** 20), channels=[told])


def test_many_changes_of_few_things_are_told_once(store, told):
    for number in range(3000):
        store.invalidate([f"http://shop.test/{number % 3}"])
    assert store.number == 3000 and told.times == []
    until(lambda: told.times)
    assert len(told.times[0]) == 3
    store.invalidate(["http://shop.test/0"])
    until(lambda: len(told.times) == 2)
    assert told.times[1] == [told.times[0][0]]


def test_a_purge_that_somebody_asks_for_waits_for_nothing(store, told):
    assert store.purge(url="http://shop.test/0") == 1 and len(told.times) == 1


def test_a_worker_that_ends_tells_what_is_left(store, told):
    store.invalidate(["http://shop.test/0"])
    store.stop()
    assert len(told.times) == 2 and told.times[1] == "stopped"


CONFIG = """
[upstreams.api]
instances = ["http://127.0.0.1:1"]

[[routes]]
path = "/api/*"
upstream = "api"

[[routes]]
path = "/shop/{id:int}"
upstream = "api"
methods = ["GET"]
host = "shop.test"
header = { X-A = "1" }
cache = {}

[[routes]]
path = "/shop/{id:int}"
upstream = "api"
"""


@pytest.mark.parametrize("target, fields, gone", [
    ("/api/1", [], []),
    ("/api/1?a=%20", [], []),
    ("/shop/1", [], ["http://other.test/shop/1"]),            # whatever else the route asks for
    ("/shop/1?a", [], ["http://other.test/shop/1?a"]),
    ("/shop/x", [], []),
    ("/api/1", [("Location", "/shop/7")], ["http://other.test/shop/7"]),
    ("/api/1", [("Content-Location", "../shop/7"), ("Location", "/api/9")], ["http://other.test/shop/7"]),
    ("/api/..%2Fshop/1", [], ["http://other.test/api/..%2Fshop/1"]),      # what is odd may be another path
    ("/api//shop/1", [], ["http://other.test/api//shop/1"]),
    ("/api/./x", [], ["http://other.test/api/./x"]),
    ("/api/\xe4", [], ["http://other.test/api/\xe4"])])
def test_only_what_some_route_keeps_is_purged(tmp_path, target, fields, gone):
    registry, purged = Registry(), []
    log = RequestLog(str(tmp_path / "log"), registry.counter("dropped", "Lines."))
    pipeline = Pipeline(load_text(CONFIG, {}), view=lambda request: Response(200, []), log=log, registry=registry)
    pipeline.store.invalidate = purged.extend
    forget(pipeline.store, Request("POST", target, [], host="other.test"), Response(201, fields))
    assert purged == gone
