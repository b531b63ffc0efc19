"""Hints for words that are not known here: the right one, or none. And mistakes that hide no others."""

import pytest

from gateway.configfile.load import load, load_text
from gateway.errors import ConfigError
from gateway.values import did_you_mean, distance

UP = '[upstreams.a]\ninstances = ["http://a"]\n'
ROUTE = UP + '[[routes]]\npath = "/x"\nupstream = "a"\n'


def mistakes(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ or {})
    return caught.value.problems


@pytest.mark.parametrize("left, right, apart", [
    ("", "", 0), ("a", "", 1), ("", "ab", 2), ("ttl", "tll", 1), ("tiemout", "timeout", 1), ("mount", "timeout", 4),
    ("ab", "ba", 1), ("host", "port", 2), ("headrs", "headers", 1)])
def test_distance(left, right, apart):
    assert distance(left, right) == distance(right, left) == apart


@pytest.mark.parametrize("wrong, known, hint", [
    ("mount", ["timeout", "host"], ""), ("port", ["host", "path"], ""), ("jobs", ["host", "log"], ""), ("x", ["y"], ""),
    ("", ["a"], ""), ("auth", ["path", "add"], ""), ("tiemout", ["timeout"], ", did you mean timeout?"),
    ("Upstream", ["upstream"], ", did you mean upstream?"),
    ("conect_timout", ["connect_timeout", "timeout"], ", did you mean connect_timeout?"), ("anything", [], "")])
def test_a_hint_is_near_or_none(wrong, known, hint):
    assert did_you_mean(wrong, known) == hint


@pytest.mark.parametrize("place, word, hint", [
    ("route", "proxy_pass", ", did you mean upstream?"), ("route", "backend", ", did you mean upstream?"),
    ("route", "service", ", did you mean upstream?"), ("route", "url", ", did you mean upstream?"),
    ("route", "target", ", did you mean upstream?"), ("route", "prefix", ", did you mean path?"),
    ("route", "location", ", did you mean path?"), ("route", "method", ", did you mean methods?"),
    ("route", "root", ", did you mean files?"), ("route", "return", ", did you mean respond?"),
    ("route", "strip_path", ", did you mean strip_prefix?"), ("route", "proxy_redirect", ", did you mean rewrite_location?"),
    ("route", "client_max_body_size", ", did you mean max_body?"), ("route", "mount", "; gateway schema lists what there is"),
    ("route", "gzip", "; nginx in front compresses"), ("upstream", "url", ", did you mean instances?"),
    ("upstream", "servers", ", did you mean instances?"), ("upstream", "targets", ", did you mean instances?"),
    ("upstream", "lb_policy", ", did you mean balance?"), ("upstream", "proxy_read_timeout", ", did you mean timeout?"),
    ("upstream", "keepalive", ", did you mean idle_timeout?"), ("upstream", "preserve_host", ", did you mean host?"),
    ("upstream", "verify_ssl", ", did you mean tls?"), ("gateway", "listen", "; GATEWAY_BIND says where the gateway listens"),
    ("gateway", "port", "; GATEWAY_BIND says where the gateway listens"),
    ("gateway", "workers", "; GATEWAY_WORKERS says how many there are"),
    ("gateway", "worker", "; GATEWAY_WORKERS says how many there are"),
    ("gateway", "trusted_proxies", ", did you mean trust?"), ("gateway", "access_log", ", did you mean log?"),
    ("root", "services", ", did you mean upstreams?"), ("root", "endpoints", ", did you mean routes?"),
    ("root", "server", ", did you mean gateway?"),
    ("upstream", "server", ", did you mean instances?"), ("root", "backends", ", did you mean upstreams?")])
def test_words_of_other_programs(place, word, hint):
    text = {"route": f"{ROUTE}{word} = 1", "upstream": f"{UP}{word} = 1", "gateway": f"[gateway]\n{word} = 1",
            "root": f"[{word}]"}[place]
    assert any(problem.endswith(f"{word}: unknown setting{hint}") for problem in mistakes(text)), mistakes(text)


def test_an_address_where_a_name_is_needed():
    [problem] = mistakes('[[routes]]\npath = "/x"\nupstream = "http://10.0.0.5:80"')
    assert "declare [upstreams.name]" in problem


PARTS = """[upstreams.a]
instances = ["http://a"]
[[routes]]
path = "/x"
[routes.aggregate]
one = {one}
two = { from = "b:/{nothing}/{one.id}", optional = true }
three = { from = "a:/", default = 3 }
"""


@pytest.mark.parametrize("one, said", [
    ('{ from = "a:/", pick = 5 }', ["aggregate.one.pick: "]), ('{ from = "a:/", pick = [1] }', ["aggregate.one.pick[0]: "]),
    ('{ from = "a:/", timeout = "x" }', ["aggregate.one.timeout: "]),
    ('{ from = "a:/", headers = { "X Y" = "a" } }', ["aggregate.one.headers"]),
    ('{ form = "a:/" }', ["aggregate.one.form: ", "aggregate.one.from: "]), ("{}", ["aggregate.one.from: "]),
    ("5", ["aggregate.one: "]), ('{ from = "${UNSET}" }', ["aggregate.one.from: "])])
def test_a_part_that_cannot_be_read_hides_no_mistake_of_the_others(one, said):
    found = [problem.removeprefix('route "/x": ') for problem in mistakes(PARTS.replace("{one}", one, 1))]
    expected = [*said, 'aggregate.two.from: there is no upstream "b"',
                "aggregate.two.from: {nothing}", "aggregate.three.default: "]
    assert [place for place in expected if not any(problem.startswith(place) for problem in found)] == []
    assert len(found) == len(expected)


@pytest.mark.parametrize("setting, also", [
    ('cache = { ttl = "x", methods = ["POST"] }', ["cache.ttl: ", "cache.methods: "]),
    ('request_headers = { set = { Host = "x" }, remove = 5 }', ["request_headers.remove: ", "request_headers.set.Host: "]),
    ('timeout = 5\nstrip_prefix = "/y"\nrewrite = "/{z}"',
     ["timeout: ", "rewrite: already", "strip_prefix: ", "rewrite: the path"]),
])
def test_a_setting_that_cannot_be_read_hides_no_mistake_beside_it(setting, also):
    found = [problem.removeprefix('route "/x": ') for problem in mistakes(ROUTE + setting)]
    assert [place for place in also if not any(problem.startswith(place) for problem in found)] == []


@pytest.mark.parametrize("text, said", [
    (ROUTE + 'cache = { ttl = "x", respect = "policy" }', "cache.ttl: "),
    (PARTS.partition("[routes.aggregate]")[0] + 'aggregate = { u = { from = "a:/", optional = 5, default = 1 } }',
     "aggregate.u.optional: "),
    (PARTS.partition("[routes.aggregate]")[0] + 'aggregate = { u = { from = 5 }, v = "a:/{u.id}" }', "aggregate.u.from: "),
    (PARTS.partition("[routes.aggregate]")[0] + "aggregate = { u = 5 }", "aggregate.u: "),
])
def test_what_cannot_be_read_is_not_said_to_be_missing(text, said):
    [problem] = mistakes(text)
    assert problem.startswith(f'route "/x": {said}')


def test_a_setting_of_tls_hides_no_other():
    assert len(mistakes(UP + 'tls = { verify = "x", ca = "/nothing/here", key = "/nothing/there" }')) == 4


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbf" + ROUTE.encode())
    assert load(file, {}).routes[0].upstream == "a"


@pytest.mark.parametrize("value", ["5", '""', '"s3cret ${"', '["s3cret"]'])
def test_the_secret_key_is_in_no_message(value):
    [problem] = mistakes(f"[gateway]\nsecret_key = {value}")
    assert problem.startswith("gateway: secret_key: ") and "s3cret" not in problem


def test_the_secret_key_is_not_shown():
    config = load_text('[gateway]\nsecret_key = "${KEY}"', {"KEY": "s3cret"})
    assert config.gateway.secret_key.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{config!r}{config.model_dump()}{config.model_dump_json()}"
