"""The cache of view code over the same tiers."""

from __future__ import annotations

import time

import flask
import pytest
from stored import numbers_of

from gateway import cache
from gateway import view_cache as store
from gateway.bus.notice import Notice, gap
from tests.cache.storage.workers import begin
from tests.waiting import PATIENT, until


class Basket:
    def __init__(self, content):
        self.content = content


@pytest.fixture
def app_of(worker):
    """``app_of(redis=...)`` is an application of one worker, with its ``tiered``."""
    def make(**settings) -> flask.Flask:
        app, one = flask.Flask("shop"), worker(start=False, **settings)
        store.init(app, one)
        with app.app_context():
            app.tiered = cache.cache
        begin(one)
        return app
    return make


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {"a": (1, 2)}, {1, 2}, Basket([1])], ids=repr)
def test_values_of_views(app_of, value):
    tiered = app_of().tiered
    assert tiered.set("k", value, 60)
    assert type(tiered.get("k")) is type(value)
    if not isinstance(value, Basket):
        assert tiered.get("k") == value


def test_what_one_changes_is_not_changed_for_others(app_of):
    tiered = app_of().tiered
    for value in ({"items": [1]}, Basket([1])):
        tiered.set("k", value)
        (value["items"] if isinstance(value, dict) else value.content).append(2)
        found = tiered.get("k")
        items = found["items"] if isinstance(found, dict) else found.content
        assert items == [1]
        items.append(3)
        found = tiered.get("k")
        assert (found["items"] if isinstance(found, dict) else found.content) == [1]


def test_answers_of_views(app_of):
    app = app_of()
    calls = []

    @app.get("/")
    @cache.cached(60)
    def view():
        calls.append(1)
        return flask.Response("<p>hi</p>", 203, {"X-Own": "1"}, mimetype="text/html")

    for _ in range(2):
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.headers["X-Own"], answer.text) == (203, "1", "<p>hi</p>")
    assert calls == [1]


def test_timeouts(app_of):
    tiered = app_of().tiered
    tiered.set("k", 1, 60)
    tiered.set("always", 1, 0)
    held = tiered.memory.get("k")
    assert 59 < held.until - time.time() <= 60 and tiered.memory.get("always").until > time.time() + 10 ** 8
    held.until = time.time() - 1.0
    assert tiered.get("k") is None
    assert tiered.add("k", 2, 60) and not tiered.add("k", 3, 60) and tiered.get("k") == 2
    assert tiered.delete("k") and not tiered.delete("k") and not tiered.has("k")
    assert tiered.set("gone", 1, -1) is False


def test_views_of_several_workers_share_values(redis_server, app_of):
    server = redis_server()
    one, other = app_of(redis=server.url).tiered, app_of(redis=server.url).tiered
    one.set("k", {"a": 1})
    assert other.get("k") == {"a": 1}
    other.set("k", {"a": 2})
    until(lambda: one.get("k") == {"a": 2}, store.NEAR + 5)
    one.delete("k")
    until(lambda: other.get("k") is None)
    one.set_many({"a": 1, "b": 2})
    assert other.get_many("a", "b", "c") == [1, 2, None]
    one.clear()
    until(lambda: other.get_many("a", "b") == [None, None])
    late = app_of(redis=server.url).tiered
    until(lambda: late.get("a") is None)
    one.set("a", 3)
    assert late.get("a") == 3


def test_memory_counts_while_redis_is_gone(redis_server, app_of):
    server = redis_server()
    one = app_of(redis=server.url).tiered
    one.set("k", {"a": 1})
    one.near = 0.0
    assert one.get("k") == {"a": 1}
    server.kill()
    assert one.get("k") == {"a": 1} and one.get("k") == {"a": 1} and one.get("else") is None


def test_what_changes_while_redis_is_away_is_not_what_it_was_afterwards(redis_server, app_of):
    """Nothing of it reached Redis, which still has what was there before."""
    server = redis_server()
    app, other = app_of(redis=server.url, timeout=PATIENT), app_of(redis=server.url, timeout=PATIENT).tiered
    one, shared = app.tiered, app.extensions["wicketgate.store"]
    one.near = other.near = 0.0
    for key in ("set", "deleted", "both", "neither"):
        one.set(key, "old")
        assert other.get(key) == "old"
    circuit = shared.leases.client.circuit
    circuit.breaker.first = circuit.breaker.longest = 60.0
    circuit.pause(OSError("away"))
    one.set("set", "new")
    one.delete("deleted")
    one.delete("both")
    one.set("both", "new")
    assert not shared.leases.usable
    until(lambda: not shared.bus.backlog())
    circuit.resume()
    keys = ("set", "deleted", "both", "neither")
    assert server.client.exists(*(f"wicketgate:view:{key}" for key in keys)) == 4
    assert one.get_many(*keys) == one.get_many(*keys) == ["new", None, "new", "old"]
    until(lambda: {"deleted", "both"} <= set(other.deletions))
    assert other.get_many(*keys)[1:] == [None, None, "old"]


@pytest.fixture
def two_clocks(redis_server, app_of):
    """Two workers that know little of Redis's clock, and ask it each time."""
    server = redis_server()
    workers = [app_of(redis=server.url, timeout=PATIENT).tiered for _ in range(2)]
    for each in workers:
        each.near = 0.0
        each.store.leases.client.clock.margin, each.cleared_at = 0.05, 0.0
    return workers


def test_what_is_set_right_after_it_was_deleted_is_found(two_clocks):
    one, other = two_clocks
    for number in range(5):
        one.set("k", number)
        one.delete("k")
        one.set("k", -number)
        until(lambda: other.deletions)
        assert one.get("k") == other.get("k") == -number
        other.deletions.clear()


def test_what_was_set_later_elsewhere_is_seen(two_clocks):
    one, other = two_clocks
    for number in range(5):
        one.set("k", number)
        other.set("k", -number)
        assert one.get("k") == other.get("k") == -number


def test_how_many_deletions_are_remembered(app_of):
    tiered = app_of().tiered
    tiered.most_deletions = 3
    for key in "abcda":
        tiered.delete(key)
    assert list(tiered.deletions) == ["c", "d", "a"]


def test_a_late_purge_leaves_what_was_stored_after_it(app_of):
    app = app_of()
    before = time.time()
    app.tiered.set("k", 1)
    for value in ("k", ""):
        app.extensions["wicketgate.store"].bus.deliver(Notice("views", value, None, True, before - 1.0))
        assert app.tiered.get("k") == 1
        app.extensions["wicketgate.store"].bus.deliver(Notice("views", value, None, True, time.time()))
        assert app.tiered.get("k") is None
        app.tiered.set("k", 1)


@pytest.mark.parametrize("why", ["paused", "gone", "refused"])
def test_values_that_do_not_reach_redis_are_counted(redis_server, app_of, why):
    server = redis_server("--maxmemory-policy", "noeviction")
    app = app_of(redis=server.url)
    shared = app.extensions["wicketgate.store"]
    app.tiered.set("k", 1)
    assert ("dropped", "redis") not in numbers_of(shared)
    if why == "paused":
        shared.leases.client.circuit.pause(OSError("away"))
    elif why == "gone":
        server.kill()
    else:
        server.client.config_set("maxmemory", 1)
    assert app.tiered.set("l", 2) and app.tiered.get("l") == 2
    assert numbers_of(shared)["dropped", "redis"] == 1


def test_objects_of_ones_own_classes_stay_here(redis_server, app_of):
    server = redis_server()
    one, other = app_of(redis=server.url).tiered, app_of(redis=server.url).tiered
    one.set("k", Basket([1]))
    assert one.get("k").content == [1] and other.get("k") is None
    assert not server.client.keys("*view*")


def test_a_corrupt_value_is_a_miss(redis_server, app_of):
    server = redis_server()
    app = app_of(redis=server.url)
    other = store.record_of("other", store.StoredValue(1, 9e9, 9e8, True), 0.0)
    for data in (b"nonsense", b"\x80\x04K\x01.", b"WGVC\x01aaaabbbb", other):
        server.client.set("wicketgate:view:k", data)
        assert app.tiered.get("k") is None
        assert not server.client.exists("wicketgate:view:k")
    assert numbers_of(app.extensions["wicketgate.store"])["corrupt", "redis"] == 4


def test_memory_of_views_is_bounded(app_of):
    tiered = app_of(memory=100_000).tiered
    for number in range(1000):
        tiered.set(str(number), "x" * 1000)
    assert tiered.memory.bytes <= 100_000 and tiered.get("999") == "x" * 1000


def test_from_a_native_thread_it_is_memory_only(redis_server, app_of):
    from gateway.loop.native_threads import run_in_thread
    server = redis_server()
    tiered = app_of(redis=server.url).tiered
    run_in_thread(tiered.set, "k", 1)
    assert not server.client.keys("*view*") and tiered.memory.get("k") is not None
    tiered.set("shared", 2)
    assert run_in_thread(tiered.get, "shared") == 2


def test_a_plain_application_may_use_it_too(redis_server):
    server = redis_server()
    app = flask.Flask("plain")
    app.config.update(CACHE_TYPE="gateway.view_cache.Tiered", CACHE_REDIS_URL=server.url, CACHE_MEMORY=10 ** 6)
    store.init(app)
    with app.app_context():
        cache.set("k", [1])
        assert cache.get("k") == [1] and server.client.keys("*view:k")
        cache.cache.store.stop()


def test_a_purge_of_answers_is_none_of_values(app_of):
    app = app_of()
    app.tiered.set("k", 1)
    app.extensions["wicketgate.store"].purger.purge(everything=True)
    assert app.tiered.get("k") == 1
    app.extensions["wicketgate.store"].bus.deliver(gap(time.time()))
    assert app.tiered.get("k") is None
