"""``from gateway import cache``: one Flask-Caching object, lazily, safe for many greenlets; and what cached() does not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flask
import gevent
import pytest
from gevent.event import Event

from gateway import cache, gather
from gateway import view_cache as store
from tests.waiting import SAFETY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def app():
    app = flask.Flask(__name__)
    store.init(app)
    with app.app_context():
        cache.clear()
    return app


@pytest.fixture
def in_app(app):
    with app.app_context():
        yield app


@pytest.mark.parametrize("statement, absent", [
    ("import gateway", "gevent flask requests flask_caching"),
    ("from gateway import cache", "gevent flask requests flask_caching"),
    ("from gateway import __version__", "gevent flask requests flask_caching"),
    ("from gateway import gather", "flask requests flask_caching"),
    ("from gateway import govern_requests", "flask flask_caching"),
])
def test_importing_loads_only_what_is_needed(statement, absent):
    code = f"import sys; {statement}; print(*sorted(set({absent.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_unknown_names_are_attribute_errors():
    import gateway
    for thing in (gateway, cache):
        with pytest.raises(AttributeError, match="colour"):
            thing.colour
    assert {"cache", "create_app", "gather", "govern_requests"} <= set(dir(gateway))


def test_the_package_is_the_one_cache_object(in_app):
    assert cache.set("key", {"a": 1}, timeout=60)
    assert cache.get("key") == store.view_cache.get("key") == {"a": 1}
    cache.delete("key")
    assert cache.get("key") is None
    cache.set_many({"a": 1, "b": 2})
    assert cache.get_many("a", "b") == [1, 2]
    cache.clear()
    assert cache.get_many("a", "b") == [None, None]


@pytest.mark.parametrize("settings, expected", [
    ({}, "Tiered"),
    ({"CACHE_TYPE": "NullCache", "CACHE_NO_NULL_WARNING": True}, "NullCache"),
])
def test_the_application_may_choose_the_backend(settings, expected):
    app = flask.Flask(__name__)
    app.config.update(settings)
    store.init(app)
    with app.app_context():
        assert type(cache.cache).__name__ == expected


def test_each_application_has_its_own_content():
    apps = [flask.Flask("one"), flask.Flask("two")]
    for app in apps:
        store.init(app)
        with app.app_context():
            cache.set("name", app.name)
    for app in apps:
        with app.app_context():
            assert cache.get("name") == app.name


# -- memoize: the key is the function and its arguments

def test_memoize_runs_once_for_each_set_of_arguments_and_can_forget(in_app):
    calls = []

    @cache.memoize(60)
    def price(number, currency="EUR"):
        calls.append((number, currency))
        return f"{number} {currency}"

    assert [price(1), price(1), price(1, "USD"), price(2)] == ["1 EUR", "1 EUR", "1 USD", "2 EUR"]
    assert calls == [(1, "EUR"), (1, "USD"), (2, "EUR")]
    cache.delete_memoized(price, 1)
    price(1), price(2)
    assert calls[3:] == [(1, "EUR")]


def test_an_exception_is_not_memoized(in_app):
    calls = []

    @cache.memoize(60)
    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("down")
        return "up"

    with pytest.raises(LookupError):
        flaky()
    assert flaky() == "up" == flaky()
    assert len(calls) == 2


def test_many_greenlets_get_each_their_own_answer(app):
    @cache.memoize(60)
    def basket(user):
        gevent.sleep(0)
        return f"basket of {user}"

    @app.get("/basket/<user>")
    def view(user):
        mine, again = gather(lambda: basket(user), lambda: basket(user))
        return f"{mine}, {again}, {cache.get('nothing')}"

    users = [f"user{number % 10}" for number in range(60)]
    answers = gather(*[lambda user=user: app.test_client().get(f"/basket/{user}").text for user in users], limit=30)
    assert answers == [f"basket of {user}, basket of {user}, None" for user in users]


def test_concurrent_misses_all_run_as_documented(in_app):
    running, all_in = [], Event()

    @cache.memoize(60)
    def slow():
        running.append(1)
        if len(running) == 3:
            all_in.set()
        assert all_in.wait(SAFETY)
        return "done"

    assert gather(slow, slow, slow) == ["done"] * 3
    assert slow() == "done"
    assert len(running) == 3


# -- cached(): what docs/cache.md warns of, as it is in the installed version

@pytest.fixture
def greeting(app):
    """A view that greets whoever asks, under ``cached()`` with the given arguments."""
    def make(**arguments):
        @app.route("/hello", methods=["GET", "POST"])
        @cache.cached(timeout=60, **arguments)
        def hello():
            return f"{flask.request.method} {flask.request.args.get('name')} {flask.request.headers.get('X-User')}"
        return app.test_client()
    return make


@pytest.mark.parametrize("change", [
    {"query_string": {"name": "bob"}},
    {"headers": {"X-User": "bob"}},
    {"method": "POST"},
    {"headers": {"Host": "other.test"}},
])
def test_cached_knows_the_path_only(greeting, change):
    client = greeting()
    first = client.get("/hello", query_string={"name": "ann"}, headers={"X-User": "ann"}).text
    assert first == "GET ann ann"
    assert client.open("/hello", **change).text == first


@pytest.mark.parametrize("failure", [lambda: ("broken", 500), lambda: flask.abort(503)])
def test_cached_keeps_errors_and_cookies_unless_filtered(failure, app):
    calls = []

    def view():
        calls.append(1)
        if len(calls) == 1:
            return failure()
        answer = flask.make_response("fine")
        answer.set_cookie("sid", f"user{len(calls)}")
        return answer

    filtered = cache.cached(60, response_filter=lambda answer: flask.make_response(answer).status_code == 200)
    app.add_url_rule("/kept", "kept", cache.cached(60)(view))
    app.add_url_rule("/filtered", "filtered", filtered(view))
    kept = [app.test_client().get("/kept").status_code for _ in range(2)]
    assert kept[0] >= 500 and kept == kept[:1] * 2 and len(calls) == 1
    calls.clear()
    answers = [app.test_client().get("/filtered") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [kept[0], 200, 200]
    assert answers[1].headers["Set-Cookie"] == answers[2].headers["Set-Cookie"]       # another client's cookie


def test_a_key_of_ones_own_keeps_users_apart(greeting):
    client = greeting(make_cache_key=lambda *args, **kwargs: f"hello/{flask.request.headers.get('X-User')}")
    answers = [client.get("/hello", headers={"X-User": user}).text for user in ("ann", "bob", "ann")]
    assert answers == ["GET None ann", "GET None bob", "GET None ann"]
