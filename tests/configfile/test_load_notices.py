"""What is no mistake and worth knowing."""

from __future__ import annotations

import pytest

from gateway.config import Config
from gateway.configfile.checks import notices
from gateway.configfile.load import load_text


def test_notices():
    config = load_text("""
        [upstreams.a]
        instances = ["http://a"]
        timeout = "20s"
        tls.verify = false
    """, {})
    assert notices(config) == [
        'no route takes everything (path = "/*"): what no route matches is answered 404',
        "gateway.admin is not set: there is no listener for health, readiness and metrics",
        "gateway.trust is empty: X-Forwarded-* is believed from nobody, also not from an nginx in front",
        'upstream "a": no route uses it',
        'upstream "a": certificates are not verified (tls.verify = false)',
        'upstream "a": tls has no effect, no instance is https://',
        'upstream "a": timeout is longer than the deadline of any request',
        "max_connections, connection pools and balancing count in each worker process for itself"]
    quiet = load_text("""
        [gateway]
        admin = "127.0.0.1:9901"
        trust = ["127.0.0.1"]
        views = ["v"]
        [[routes]]
        path = "/*"
        view = true
    """, {})
    assert notices(quiet) == ["the cache for views (from gateway import cache) is kept by each worker process for itself"]


@pytest.mark.parametrize("cache, said", [
    ("", "stored answers are kept by each worker process for itself: cache.redis, cache.memcached and cache.file are not set"),
    ('memcached = "a:1"', "cache.memcached carries no purges to other machines, and none over a restart; cache.redis does"),
    ('redis = "redis://a"', None), ('file = "/tmp/x"', None)])
def test_notices_about_the_storage_of_the_cache(cache, said):
    text = f'[cache]\n{cache}\n[[routes]]\npath = "/*"\nview = true\ncache = {{}}\n'
    found = [notice for notice in notices(load_text(text, {})) if "cache" in notice or "stored" in notice]
    assert found == ([said] if said else [])


def test_a_notice_about_what_may_be_flasks_notation():
    """It may be text too, which comes percent-encoded; with a converter it is a mistake (test_routing.py)."""
    routes = [{"path": "/u/<id>/<name>.json", "respond": {}}, {"path": "/u/{id}", "respond": {}}]
    assert [notice for notice in notices(Config.model_validate({"routes": routes})) if "did you mean" in notice] == [
        'route "/u/<id>/<name>.json": <...> is taken as text; did you mean /u/{id}/{name}.json?']
