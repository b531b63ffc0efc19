"""What unsafe requests have changed: who hears of it, and of what nobody needs to."""

from __future__ import annotations

from contextlib import suppress

import gevent
import pytest
from asking import Stream, ok
from stored import SAFETY

from gateway.cache.invalidation import Invalidate, forget
from gateway.cache.purge import batch as telling_module
from gateway.cache.purge.batch import PurgeBatch
from gateway.cache.purge.marks import Purge
from gateway.cache.step import CacheStep
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore
from gateway.config import CacheSettings as Policy
from gateway.configfile.load import load_text
from gateway.errors import (BadRequest, BodyTooLarge, ClientDisconnected, ConnectFailed, ConnectTimeout, DeadlineExceeded,
                            PartFailed, PoolExhausted, UpstreamClosed, UpstreamTimeout, UpstreamTruncated)
from gateway.message import Attempt, Request, Response
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry


class Told:
    """A channel that writes down what it is told, each time."""

    def __init__(self):
        self.times = []

    def write(self, *purges):
        gevent.sleep(0)
        self.times.append([purge.value for purge in purges])
        return True

    def stop(self):
        self.times.append("stopped")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def store(told):
    return HttpStore(MemoryTier(2 ** 20), channels=[told])


def test_many_changes_of_few_things_are_told_once(store, told):
    changing = [gevent.spawn(store.invalidate, [f"http://shop.test/{number % 3}"]) for number in range(3000)]
    gevent.joinall(changing)
    assert store.number == 3000 and len(told.times) < 10 and len(told.times[0]) == 3
    before = len(told.times)
    store.invalidate(["http://shop.test/0"])
    assert told.times[before:] == [[told.times[0][0]]], "and who has changed it goes on when that is told"


def test_a_channel_that_does_not_answer_is_waited_for_no_longer_than_a_request_may(store, told):
    told.write = lambda *purges: gevent.sleep(SAFETY)
    with gevent.Timeout(SAFETY / 2):
        store.invalidate(["http://shop.test/0"])
    [telling] = store._telling.values()
    telling._greenlet.kill()


def test_a_channel_with_a_defect_takes_what_comes_next(store, told, caplog):
    write, told.write = told.write, lambda *purges: 1 / 0
    store.invalidate(["http://shop.test/0"])
    assert "not told" in caplog.text
    store._telling[told].write = write
    store.invalidate(["http://shop.test/1"])
    assert len(told.times) == 1


def test_more_than_can_wait_for_a_channel_are_one_purge_of_everything(told, monkeypatch):
    monkeypatch.setattr(telling_module, "MOST", 5)
    telling = PurgeBatch(told.write)
    written = [telling.add(Purge("key", str(number), False, float(number))) for number in range(8)]
    written[-1].wait()
    assert told.times == [["", "", "5", "6", "7"]]


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


def met(flag):
    """An attempt that ended so."""
    attempt = Attempt("api", "127.0.0.1:1")
    attempt.flag = flag
    return attempt


@pytest.mark.parametrize("error, flags, gone", [
    (ConnectFailed("x"), ["UF"], False),
    (ConnectTimeout("x"), ["UF", "UT"], False),
    (PoolExhausted("x"), [], False),
    (ConnectFailed("x"), ["UC", "UF"], True),            # the one before had been sent
    (BadRequest("x"), [], False),
    (BodyTooLarge("x"), [], False),
    (BodyTooLarge("x"), [""], True),                     # while it was sent
    (ClientDisconnected("x"), [], True),                 # a view may have done it
    (DeadlineExceeded("x"), [], True),
    (UpstreamClosed("x"), ["UC"], True),
    (UpstreamTimeout("x"), ["UT"], True),
    (UpstreamTruncated("x"), ["UX"], True),
    (PartFailed("one", "x"), ["UC"], True),
    (ZeroDivisionError("x"), [], True),
    (gevent.GreenletExit("x"), [], True)])
@pytest.mark.parametrize("step", ["cache", "invalidate"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "MKCOL", "GET"])
def test_what_ended_without_an_answer_makes_invalid_unless_nothing_was_done(store, error, flags, gone, step, method):
    def fail(request):
        raise error
    handler = Invalidate(fail, store) if step == "invalidate" else CacheStep(fail, Policy(), store, counter=Registry().counter)
    request = Request(method, "/a", [], host="shop.test")
    request.attempts = [met(flag) for flag in flags]
    with pytest.raises(type(error)):
        handler(request)
    assert store.number == (gone and method != "GET")


@pytest.mark.parametrize("error, stored, gone", [
    (UpstreamClosed("x"), False, True), (ClientDisconnected("x"), False, True), (ConnectFailed("x"), False, False),
    (UpstreamClosed("x"), True, False)])                 # it is a question: another like it is stored
def test_a_post_that_may_be_a_question(world, error, stored, gone):
    def fail(request):
        raise error
    world.cache({"methods": ["GET", "POST"]})
    if stored:
        world.answer = ok("max-age=0", ETag='"v"')
        world.ask(method="POST")
    world.answer = fail
    before = world.store.number
    with pytest.raises(type(error)):
        world.ask(method="POST")
    assert (world.store.number > before) is gone


@pytest.mark.parametrize("pieces, left", [([b"a", b"b"], False), ([b"a", UpstreamTruncated("x")], False), ([b"a", b"b"], True)])
def test_what_a_streamed_answer_belongs_to_is_purged_again_at_its_end(store, pieces, left):
    stream = Stream(*pieces)
    response = Invalidate(lambda request: Response(200, [], stream), store)(Request("POST", "/a", [], host="shop.test"))
    assert store.number == 1
    with suppress(UpstreamTruncated):
        for _ in response.body if not left else ():
            assert store.number == 1
    response.body.close()
    assert store.number == 2 and stream.closed
