"""What unsafe requests have changed: which addresses are purged, and when."""

from __future__ import annotations

from contextlib import suppress

import gevent
import pytest
from asking import Stream, ok

from gateway.cache.purging.invalidation import Invalidate, forget
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


@pytest.fixture
def store():
    return HttpStore(MemoryTier(2 ** 20))


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
    pipeline.store.purger.purge_urls = lambda urls: len(purged.extend(urls) or urls)
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
