import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import config
from gateway.config import (Config, HeaderRules, Part, RespondSettings, Route, Tls, UpstreamSettings, parse_duration,
                            parse_instance, parse_size)
from gateway.values import Address, check_unlike, did_you_mean, duration_text, parse_authority, parse_flag, parse_whole, quote


@pytest.fixture(autouse=True)
def leaks():
    """Nothing here can leak, and looking for what did would take longer than the tests."""


# -- values

@pytest.mark.parametrize("text, seconds", [
    ("1ms", 0.001), ("250ms", 0.25), ("1s", 1.0), ("1.5s", 1.5), ("0.1s", 0.1), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0),
    ("007s", 7.0),
])
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [
    "", "1", "s", "1 s", " 1s", "1s ", "1S", "1sec", "0s", "0.0ms", "-1s", "+1s", ".5s", "1.s", "1e3s", "1s2s", "\u0661s", 1, 1.5,
    True, None, [], {},
])
def test_what_is_no_duration(value):
    with pytest.raises(ValueError):
        parse_duration(value)


@given(st.sampled_from(["ms", "s", "m", "h", "d"]), st.integers(1, 2000))
def test_a_duration_is_written_as_it_can_be_read(unit, count):
    seconds = parse_duration(f"{count}{unit}")
    assert parse_duration(duration_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize("seconds, text", [(0.25, "250ms"), (1, "1s"), (1.5, "1.5s"), (90, "90s"), (300, "5m"), (3600, "1h"),
                                           (86400, "1d"), (90000, "25h")])
def test_a_duration_is_written_short(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize("value, size", [
    ("0", 0), ("1", 1), ("2B", 2), ("1KB", 1024), ("10kb", 10240), ("64MB", 64 * 1024 ** 2), ("1GB", 1024 ** 3), (0, 0), (1, 1),
    (512, 512),
])
def test_sizes(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "B", "1 KB", "1.5MB", "-1", "1TB", "1K", -1, 1.0, True, None, []])
def test_what_is_no_size(value):
    with pytest.raises(ValueError):
        parse_size(value)


@pytest.mark.parametrize("url, address, authority", [
    ("http://a", Address("http", "a", 80, None), "a"),
    ("http://a:80/", Address("http", "a", 80, None), "a"),
    ("HTTP://A.example:8000", Address("http", "A.example", 8000, None), "A.example:8000"),
    ("https://a", Address("https", "a", 443, None), "a"),
    ("https://a:80", Address("https", "a", 80, None), "a:80"),
    ("http://10.0.0.5:65535", Address("http", "10.0.0.5", 65535, None), "10.0.0.5:65535"),
    ("http://[::1]:8080", Address("http", "::1", 8080, None), "[::1]:8080"),
    ("https://[fe80::1%25eth0]", Address("https", "fe80::1%eth0", 443, None), "[fe80::1]"),
    ("http://my_service:1", Address("http", "my_service", 1, None), "my_service:1"),
    ("unix:/run/x.sock", Address("http", "localhost", 0, "/run/x.sock"), "localhost"),
    ("unix:///run/x.sock", Address("http", "localhost", 0, "/run/x.sock"), "localhost"),
])
def test_instances(url, address, authority):
    assert parse_instance(url) == address
    assert parse_instance(url).authority == authority


@pytest.mark.parametrize("url, says", [
    ("", "write http://"), ("a", "write http://"), ("a:80", "write http://"), ("//a", "write http://"),
    ("ftp://a", "write http://"), ("http:/a", "write http://"), ("http://", "has no host"), ("http://:80", "has no host"),
    ("http://a/b", "has a path"), ("http://a?b", "has a query"), ("http://a#b", "has a fragment"),
    ("http://u@a", "has a user name"), ("http://u:p@a", "has a user name"), ("http//u:p@a", "has a user name"),
    ("http://a:", '"" is not a port'), ("http://a:0", '"0" is not a port'), ("http://a:65536", "is not a port"),
    ("http://a:+80", "is not a port"), ("http://a:8_0", "is not a port"), ("http://a:\u0661", "is not a port"),
    ("http://a:" + "9" * 5000, "is not a port"),
    ("http://::1", "is not a host"), ("http://[::1", "is not a host"), ("http://[x]", "is not a host"),
    ("http://a b", "is not a host"), ("http://.a", "is not a host"), ("http://a\n", "is not a host"),
    ("http://a\r\nX: y", "is not a host"),
    ("http://[1.2.3.4.5]", "is not an IPv6 address"),
    ("unix:", "absolute path"), ("unix:x", "absolute path"), ("unix:/", "absolute path"), ("unix:/x/", "absolute path"),
    ("unix:/\0", "absolute path"), ("unix:/" + "x" * 107, "at most 107 bytes"),
])
def test_what_is_no_instance(url, says):
    with pytest.raises(ValueError) as caught:
        parse_instance(url)
    assert says in str(caught.value) and "u:p" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_instance_or_a_sentence(text):
    for prefix in ("", "http://", "unix:/"):
        try:
            parse_instance(prefix + text)
        except ValueError as error:
            assert str(error)


def test_the_port_is_optional():
    assert parse_authority("a") == ("a", None)
    assert parse_authority("[::1]:1") == ("::1", 1)


@pytest.mark.parametrize("parse, good, bad", [
    (parse_flag, [(True, True), (False, False), ("true", True), ("false", False)], [1, 0, "yes", "True", "", None, []]),
    (parse_whole, [(0, 0), (7, 7), ("7", 7), ("-1", -1)], [True, 1.0, "1.0", "", " 1", "\u0661", "9" * 5000, None, []]),
])
def test_flags_and_numbers_come_as_text_too(parse, good, bad):
    for value, expected in good:
        assert parse(value) is expected or parse(value) == expected
    for value in bad:
        with pytest.raises(ValueError):
            parse(value)


@pytest.mark.parametrize("value, shown", [
    ("redis://:hidden@h/0", '"redis://***@h/0"'), ("redis://me:hid/d@e\"n @h", '"redis://***@h"'),
    (["http://me:hidden@a", "b", "http://me:hidden@c"], '["http://***@a", "b", "http://***@c"]'),
    ({"url": "http://hidden@a"}, '{"url": "http://***@a"}'), (b"http://me:hidden@a", '"b\'http://***@a\'"'),
    ("http://a/b", '"http://a/b"'), ("/a@b", '"/a@b"'),
])
def test_what_may_be_a_password_is_never_shown(value, shown):
    assert quote(value) == shown


def test_values_are_shown_as_they_stand_in_the_file():
    assert [quote(value) for value in ('a"b\n', 5, True, ["x"], {"a": 1.5})] == ['"a\\"b\\n"', "5", "true", '["x"]', '{"a": 1.5}']


@pytest.mark.parametrize("wrong, known, expected", [
    ("tll", ["ttl", "tags"], ", did you mean ttl?"), ("TTL", ["ttl"], ", did you mean ttl?"), ("x", ["ttl"], ""), ("x", [], ""),
])
def test_did_you_mean(wrong, known, expected):
    assert did_you_mean(wrong, known) == expected


def test_header_fields_are_alike_without_regard_to_case():
    assert check_unlike({"A": "1", "B": "2"}) == {"A": "1", "B": "2"}
    with pytest.raises(ValueError, match='"A" and "a" are the same header field'):
        check_unlike({"A": "1", "a": "1"})


# -- models

def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Route(path="/").path = "/x"


def test_a_setting_that_is_not_known_is_an_error():
    with pytest.raises(ValidationError):
        UpstreamSettings(instances=["http://a"], tiemout="1s")


def test_defaults_are_what_they_say():
    upstream, gateway = UpstreamSettings(instances=["http://a"]), Config().gateway
    assert (upstream.connect_timeout, upstream.read_timeout, upstream.pool_timeout, upstream.idle_timeout, upstream.dns_ttl) == (
        1.0, 30.0, 1.0, 50.0, 30.0)
    assert (gateway.timeout, Route(path="/").websocket_idle_timeout, upstream.max_connections) == (10.0, 300.0, 1000)
    assert upstream.tls == Tls() and upstream.tls.verify is True


@pytest.mark.parametrize("settings, name", [
    ({"path": "/users/{id}"}, "/users/{id}"),
    ({"path": "/", "methods": ["GET", "POST"], "host": "shop.test"}, "GET,POST shop.test/"),
    ({"path": "/", "header": {"X": "1"}, "query": {"q": "*"}, "cookie": {"c": "2"}}, "/ [header X=1] [query q=*] [cookie c=2]"),
])
def test_the_name_of_a_route(settings, name):
    assert Route(**settings).name == name


@pytest.mark.parametrize("settings, kind, target", [
    ({"upstream": "legacy"}, "upstream", "upstream legacy"), ({"view": True}, "view", "view"),
    ({"respond": {}}, "respond", "respond 200"), ({"respond": {"status": 410}}, "respond", "respond 410"),
    ({"aggregate": {"user": "a:/", "team": "a:/"}}, "aggregate", "aggregate user, team"),
])
def test_what_answers_a_route(settings, kind, target):
    route = Route(path="/", **settings)
    assert (route.kind, route.target) == (kind, target)


GET = {"from": "a:/{id}"}
BODY = "a:/{body.x}"


@pytest.mark.parametrize("settings, methods", [
    ({"aggregate": {"one": "a:/", "two": GET}}, ("GET",)),
    ({"aggregate": {"one": {"from": "a:/", "json": {"a": [1, "{id}", "{{body.x}}"]}, "headers": {"X": "{query.body.x:-1}"}}}},
     ("GET",)),
    ({"aggregate": {"one": GET}, "methods": ["GET", "POST"]}, ("GET", "POST")),
    ({"aggregate": {"one": GET, "two": {**GET, "method": "POST"}}}, None),
    ({"aggregate": {"one": GET, "two": BODY}}, None),
    ({"aggregate": {"one": {**GET, "headers": {"X": "{body.x:-1}"}}}}, None),
    ({"aggregate": {"one": {**GET, "json": {"a": ["{{{body.x}}}"]}}}}, None),
    ({"aggregate": {"one": BODY}, "methods": ["PUT"]}, ("PUT",)),
    ({"aggregate": {}}, None), ({"upstream": "a"}, None), ({"respond": {}}, None),
])
def test_a_composition_that_only_reads_is_a_get(settings, methods):
    assert Route(path="/", **settings).methods == methods


def test_a_part_written_short():
    assert Route(path="/", aggregate={"user": "a:/b"}).aggregate == {"user": Part.model_validate({"from": "a:/b"})}


def test_json_null_is_told_from_no_json():
    assert "json_" in RespondSettings.model_validate({"json": None}).model_fields_set
    assert "json_" not in RespondSettings(text="").model_fields_set


def test_header_values_are_kept_as_they_are_sent():
    rules = HeaderRules(set={"X-Name": "Zoë €"}, add={"X-Empty": ""})
    assert rules.set["X-Name"].encode("latin-1").decode() == "Zoë €"
    assert rules.add["X-Empty"] == ""
    part = Part.model_validate({"from": "a:/", "headers": {"X-Name": "Zoë {id}"}})
    assert part.headers["X-Name"] == "Zoë {id}"          # a template is encoded when it is filled


@pytest.mark.parametrize("model, settings", [
    (HeaderRules, {"set": {"A B": "x"}}), (HeaderRules, {"add": {"": "x"}}), (HeaderRules, {"set": {"A": "x\r\nB: y"}}),
    (HeaderRules, {"set": {"A": " x"}}), (HeaderRules, {"set": {"A": "x\x00"}}), (HeaderRules, {"remove": ["Transfer-Encoding"]}),
    (HeaderRules, {"set": {"content-length": "1"}}), (Route, {"path": "/", "header": {"A:": "x"}}),
    (Route, {"path": "/", "methods": ["get"]}), (Route, {"path": "/", "methods": ["G T"]}),
    (UpstreamSettings, {"instances": []}), (UpstreamSettings, {"instances": ["http://a"], "host": "a/b"}),
    (config.GatewaySettings, {"admin": "10.0.0.1:1"}), (config.GatewaySettings, {"trust": ["10.0.0.1/8"]}),
    (config.GatewaySettings, {"via": "a b"}),
    (config.GatewaySettings, {"views": ["a-b"]}), (config.GatewaySettings, {"log": " "}), (config.Nginx, {"listen": "80;"}),
    (config.Nginx, {"listen": ""}),
    *((config.CacheStorage, {"redis": url}) for url in (
        "", "localhost", "http://a", "redis://", "redis://a:x", "redis:///0", "unix://run/redis.sock", "redis+sentinel://a:1",
        "redis+sentinel://a:1/", "redis+cluster://a:1,", "redis+cluster://")),
    (config.CacheStorage, {"memcached": "a"}), (config.CacheStorage, {"memcached": "a:1,"}), (config.CacheStorage, {"file": " "}),
    (config.CacheStorage, {"prefix": "a b"}), (config.CacheStorage, {"timeout": "0s"}), (config.CacheStorage, {"memory": "-1"}),
])
def test_values_that_a_model_refuses(model, settings):
    with pytest.raises(ValidationError):
        model(**settings)


@pytest.mark.parametrize("model, settings", [
    *((config.CacheStorage, {"redis": url}) for url in (
        "redis://a", "redis://:p%40ss@a:1/0?db=2", "rediss://user:p@[::1]:1", "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:1,b/m/0", "rediss+cluster://u:p@a:1,b:2")),
    (config.CacheStorage, {"memcached": "a:1,[::1]:2"}), (config.CacheStorage, {"memory": 0}),
    (config.GatewaySettings, {"admin": "localhost:1"}), (config.GatewaySettings, {"admin": "[::1]:9901"}),
    (config.GatewaySettings, {"admin": "127.9.9.9:1"}),
    (config.GatewaySettings, {"trust": ["unix", "::/0", "10.0.0.1", "10.0.0.0/8"]}),
    (UpstreamSettings, {"instances": ["http://a"], "host": "a.b:8"}),
    (UpstreamSettings, {"instances": ["http://a"], "host": "preserve"}),
    (Route, {"path": "/", "methods": ["M-SEARCH", "M", "X" * 50, "!#$%&'*+-.^_`|~0"]}),
])
def test_values_that_a_model_accepts(model, settings):
    model(**settings)


def test_a_redis_url_that_is_refused_is_not_repeated():
    with pytest.raises(ValidationError) as caught:
        config.CacheStorage(redis="http://:secret@a")
    assert "secret" not in caught.value.errors()[0]["msg"]
