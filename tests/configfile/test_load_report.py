"""Mistakes as they are reported: all of them, in the order of the file, none that another causes, and no secret."""

from __future__ import annotations

import pytest

from gateway.configfile.load import load_text
from tests.configfile.reading import UP, R, mistakes


@pytest.mark.parametrize("text, place, expected", [
    ("[gateway]\nadmin = 9901", "gateway: admin", "9901 is not text in quotes: host:port of the admin listener"),
    ("[gateway]\ntrust = 1", "gateway: trust", '1 is not a list: write ["..."]'),
    ('[gateway]\ntrust = "localhost"', "gateway: trust", '"localhost" is not a list: write ["..."]'),
    ("[upstreams.a]\ninstances = 5", 'upstream "a": instances', '5 is not a list: write ["..."]'),
    ('[upstreams.a]\ninstances = ["http://a"]\nhost = true', 'upstream "a": host', "true is not text in quotes: The Host sent"),
    ('[[routes]]\npath = "/x"\nhost = true\nrespond = {}', 'route "/x": host',
     "true is not text in quotes: shop.example.org or *.example.org"),
    ('[[routes]]\npath = "/x"\n[upstreams.a]\ninstances = ["http://a"]\n[routes.aggregate]\na = { from = "a:/", pick = 1 }',
     'route "/x": aggregate.a.pick', '1 is not a list: write ["name"]'),
    ('[[routes]]\npath = "*"\nrespond = {}', 'route "*": path', '"*" must start with "/": write "/*"'),
])
def test_what_is_suggested_is_not_the_next_mistake(text, place, expected):
    assert f"{place}: {expected}" in "\n".join(mistakes(text))


def test_all_mistakes_come_at_once_in_the_order_of_the_file():
    found = mistakes("""
        colour = "green"
        [gateway]
        timeout = "-1s"
        trust = ["nobody", "10.0.0.1/8"]
        [upstreams.legacy]
        instances = ["htp://x", "http://b", "http://b/"]
        balanc = "round-robin"
        [[routes]]
        path = "/users/{id}"
        upstream = "legcy"
        tiemout = "3s"
        strip_prefix = "/user"
        request_headers = { sett = {} }
        [[routes]]
        path = "/a{x"
        aggregate = { u = "larr:/x/{u.x}", v = { from = "legacy:/{w.x}" } }
        [[routes]]
        pth = "/b"
        [[routes]]
        path = "/a/{x}"
        view = true
        [[routes]]
        path = "/a/{y}"
        respond = {}
        [nginx]
        listn = "80"
    """)
    assert [": ".join(problem.split(": ")[:2]) for problem in found] == [
        "colour: unknown setting; there are gateway, upstreams, routes, cache, nginx",
        "gateway: timeout", "gateway: trust[0]", "gateway: trust[1]",
        'upstream "legacy": instances[0]', 'upstream "legacy": balanc',
        'route "/users/{id}": tiemout', 'route "/users/{id}": request_headers.sett', 'route "/users/{id}": upstream',
        'route "/users/{id}": strip_prefix',
        'route "/a{x": path', 'route "/a{x": aggregate.u.from', 'route "/a{x": aggregate.u',
        'route "/a{x": aggregate.v.from',
        "route number 3: path", "route number 3: pth",
        'route "/a/{x}" and route "/a/{y}": two routes match the same requests; remove one, or tell them apart by host, methods'
        ' or a condition',
        "nginx: listn"]


def test_what_cannot_be_read_causes_no_further_mistakes():
    """A target that is wrong is still a target, and a condition that is wrong makes no route equal to another."""
    assert mistakes(UP + """
        [[routes]]
        path = "/x"
        aggregate = 3
        [[routes]]
        path = "/x"
        upstream = "a"
        header = { X = 1 }
        [[routes]]
        path = "/x"
        upstream = "a"
        [[routes]]
        path = "/y"
        upstream = "${Y}"
        strip_prefix = "/y"
    """) == [
        'route "/x" (number 1): aggregate: 3 is not a table',
        'route "/x" (number 2): header.X: 1 is not text: write it in quotes, "1"',
        'route "/y": upstream: the environment has no Y: set it, or write ${Y:-default}',
        'route "/x" (number 1) and route "/x" (number 3): two routes match the same requests; remove one, or tell them apart by'
        ' host, methods or a condition']


def test_an_upstream_that_cannot_be_read_is_still_there():
    assert mistakes('[upstreams.a]\ninstances = [""]\n' + R + 'upstream = "a"') == [
        'upstream "a": instances[0]: "" is not a URL: write http://host:port, https://host or unix:/path/to.sock']


def test_a_password_is_not_repeated():
    assert "geheim" not in str(mistakes('[upstreams.a]\ninstances = ["http://u:geheim@a", "htp://u:geheim@a", "u:geheim@a:80"]'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name in ("ca", "key"):
        (tmp_path / name).write_text("")
    text = UP + f'tls = {{ ca = "{tmp_path}/ca", certificate = "{tmp_path}", key = "{tmp_path}/key" }}'
    assert mistakes(text) == [f'upstream "a": tls.certificate: there is no file "{tmp_path}"']
    good = UP + f'tls = {{ ca = "{tmp_path}/ca", certificate = "{tmp_path}/key", key = "{tmp_path}/key" }}'
    assert load_text(good, {}).upstreams["a"].tls.ca == f"{tmp_path}/ca"
