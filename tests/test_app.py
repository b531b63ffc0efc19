"""The application: which blueprints it takes, what it makes once, and what Flask's extensions expect of it."""

from __future__ import annotations

import sys

import pytest
from flask import got_request_exception

from gateway.app import Gateway, ready
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.upstream.requests.adapter import governor, ungovern_requests

HEAD = "from flask import Blueprint, abort\n"
GUARDED = HEAD + '''
inner = Blueprint("inner", __name__)
inner.get("/secret")(lambda: "secret")
innermost = Blueprint("innermost", __name__)
innermost.get("/deep")(lambda: "deep")
inner.register_blueprint(innermost)
guarded = Blueprint("guarded", __name__, url_prefix="/guarded")
guarded.before_request(lambda: abort(403))
guarded.register_blueprint(inner)
'''
PLAIN = HEAD + 'bp = shop = Blueprint("shop", __name__)\nagain = bp\nbp.get("/shop")(lambda: "shop")\n'


@pytest.fixture(autouse=True)
def clean():
    yield
    ungovern_requests()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write(name, source)`` makes a module; ``a/b`` is one in a package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, source: str) -> None:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def gateway(*views: str, **more) -> Gateway:
    return Gateway(Config.model_validate({"gateway": {"views": views, "log": "off"}, **more}), "the file")


def problems(*views: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        gateway(*views)
    assert caught.value.source == "the file"
    return caught.value.problems


def answers(app: Gateway, *targets: str) -> list[int]:
    return [app.test_client().get(target).status_code for target in targets]


# -- which blueprints

def test_a_nested_blueprint_is_published_behind_its_parents_guard_only(write):
    write("guarded", GUARDED)
    app = gateway("guarded")
    assert answers(app, "/guarded/secret", "/guarded/deep", "/secret", "/deep") == [403, 403, 404, 404]
    assert set(app.blueprints) == {"guarded", "guarded.inner", "guarded.inner.innermost"}


@pytest.mark.parametrize("order", [("parts.inner", "parts.outer"), ("parts.outer", "parts.inner")])
def test_also_when_the_modules_of_both_are_named(order, write):
    write("parts/__init__", "")
    write("parts/inner", HEAD + 'inner = Blueprint("inner", __name__)\ninner.get("/secret")(lambda: "secret")\n')
    write("parts/outer", HEAD + "from parts.inner import inner\nouter = Blueprint('outer', __name__, url_prefix='/outer')\n"
          "outer.before_request(lambda: abort(403))\nouter.register_blueprint(inner)\n")
    assert answers(gateway(*order), "/outer/secret", "/secret") == [403, 404]


def test_a_blueprint_with_several_names_is_one(write):
    write("shop", PLAIN)
    assert answers(gateway("shop", "shop"), "/shop") == [200]


def test_a_package_has_the_blueprints_of_its_modules(write):
    write("store/__init__", "from store.a import a\nfrom store.b import b\n")
    for name in "ab":
        write(f"store/{name}", HEAD + f'{name} = Blueprint("{name}", __name__)\n{name}.get("/{name}")(lambda: "{name}")\n')
    assert answers(gateway("store", "store.b"), "/a", "/b") == [200, 200]


def test_a_module_that_imports_anothers_blueprint_does_not_publish_it(write):
    write("shop", PLAIN)
    write("other", HEAD + 'from shop import shop\nother = Blueprint("other", __name__)\nother.get("/other")(lambda: "other")\n')
    assert answers(gateway("other"), "/other", "/shop") == [200, 404]
    assert answers(gateway("other", "shop"), "/other", "/shop") == [200, 200]


def test_a_blueprint_made_elsewhere_for_this_module_is_its_own(write):
    write("factory", HEAD + "def make(name):\n    return Blueprint(name, __name__)\n")
    write("made", 'from factory import make\nmade = make("made")\nmade.get("/made")(lambda: "made")\n')
    assert answers(gateway("made"), "/made") == [200]


def test_a_blueprint_that_is_there_already_is_left_alone(write):
    write("shop", PLAIN)
    app = gateway()
    app.register_blueprint(sys.modules.setdefault("shop", __import__("shop")).bp, url_prefix="/by-hand")
    app.register_views("shop")
    assert answers(app, "/by-hand/shop", "/shop") == [200, 404]


def test_all_problems_of_all_modules_are_told_at_once(write):
    write("shop", PLAIN)
    write("shop2", PLAIN)
    write("broken", "1 / 0")
    write("empty", "")
    write("imports", "from shop import shop\n")
    write("twice", HEAD + 'x = Blueprint("x", __name__)\nfor path in ("/x", "/y"):\n    x.get(path, endpoint="e")(lambda: "")\n')
    write("raises", HEAD + 'r = Blueprint("r", __name__)\nr.record(lambda state: state.app.config["MISSING"])\n')
    found = problems("nosuch1", "shop", "shop2", "nosuch2", "broken", "empty", "imports", "twice", "raises")
    expected = [
        "cannot import 'nosuch1': ModuleNotFoundError", "cannot import 'nosuch2': ModuleNotFoundError",
        "cannot import 'broken': ZeroDivisionError", "the blueprint 'shop' of 'shop2' cannot be registered: 'shop' has another one",
        "the blueprint 'x' of 'twice' cannot be registered: View function mapping",
        "the blueprint 'r' of 'raises' cannot be registered: 'MISSING'", "the module 'empty' has no Flask Blueprint",
        "the module 'imports' has no Flask Blueprint of its own; 'shop' is of 'shop': name that"]
    assert len(found) == len(expected)
    for problem, beginning in zip(found, expected):
        assert problem.startswith(f"gateway: views: {beginning}")


def test_a_nested_blueprint_without_its_parent_is_a_problem(write):
    write("base", HEAD + "base = Blueprint('base', __name__)\n")
    write("api", HEAD + "from base import base\napi = Blueprint('api', __name__)\napi.get('/api')(lambda: '')\n"
          "base.register_blueprint(api)\n")
    assert problems("api") == ["gateway: views: the blueprint 'api' of 'api' is nested in one that is not registered: name the "
                               "module of that"]
    assert answers(gateway("api", "base"), "/api") == [200]


# -- what is made once

UPSTREAMS = {"upstreams": {"legacy": {"instances": ["http://127.0.0.1:1"]}}}


def test_views_added_later_share_the_upstreams_and_the_cache():
    cached = {"routes": [{"path": "/old", "upstream": "legacy", "cache": {}}]}
    app = ready(gateway(**UPSTREAMS, **cached))
    upstreams, store, first = app.pipeline.upstreams, app.pipeline.store, app.pipeline
    app.add_url_rule("/late", view_func=lambda: "late", endpoint="late")
    assert answers(app, "/late") == [200]
    assert app.pipeline is not first and store is not None
    assert app.pipeline.upstreams is upstreams and app.pipeline.store is store
    assert governor.destinations().names["legacy"].upstream is app.pipeline.upstreams["legacy"]


# -- what Flask's extensions expect

@pytest.mark.parametrize("own", [False, True])
def test_an_exception_is_signalled_once(own):
    app, seen = gateway(), []
    app.add_url_rule("/broken", view_func=lambda: 1 / 0, endpoint="broken")
    if own:
        app.register_error_handler(500, lambda error: ("own", 500))

    def receive(sender, exception, **extra):
        seen.append((sender, type(exception)))

    with got_request_exception.connected_to(receive, app):
        assert answers(app, "/broken") == [500]
    assert seen == [(app, ZeroDivisionError)]


def test_a_blueprint_sets_what_the_application_needs(write):
    write("shop", HEAD + '''
from flask import session
from gateway import cache
shop = Blueprint("shop", __name__)

@shop.record_once
def configure(state):
    state.app.config.update(SECRET_KEY="a secret", CACHE_TYPE="SimpleCache", CACHE_THRESHOLD=7)

@shop.get("/count")
def count():
    session["visits"] = session.get("visits", 0) + 1
    return {"visits": session["visits"], "cache": type(cache.cache).__name__, "threshold": cache.cache._threshold}
''')
    client = ready(gateway("shop")).test_client()
    assert [client.get("/count").json for _ in range(2)] == [
        {"visits": visits, "cache": "SimpleCache", "threshold": 7} for visits in (1, 2)]
