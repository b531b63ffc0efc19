"""What is read: a whole file, variables of the environment and overrides, where the file is, and whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import CacheStorage, Config, GatewaySettings, Nginx, Route, UpstreamSettings
from gateway.configfile.load import Reader, load, load_text, read_text
from gateway.errors import ConfigError
from tests.configfile.reading import R, mistakes


@pytest.mark.parametrize("host, field", [
    ("a.test", "*"), ("a.test", "A.test."), ("a.test", "a.test:8080"), ("*.test", "b.a.test"), ("[::1]", "[::1]:80")])
def test_a_host_and_the_field_that_says_it(host, field):
    load_text(R + f'host = "{host}"\nheader = {{ Host = "{field}" }}\nrespond = {{}}', {})


def test_a_trusted_proxy_may_say_another_host_than_its_own():
    load_text('[gateway]\ntrust = ["unix"]\n' + R + 'host = "a.test"\nheader = { Host = "b.test" }\nrespond = {}', {})


@pytest.mark.parametrize("section, setting, path, expected", [
    ("gateway", "log", "{here}/new.log", None), ("gateway", "log", "{here}/old.log", None), ("gateway", "log", "off", None),
    ("gateway", "log", "{here}", '"{here}" is a folder'), ("gateway", "log", "{here}/no/x.log", 'there is no folder "{here}/no"'),
    ("gateway", "log", "{here}/old.log/x.log", 'there is no folder "{here}/old.log"'),
    ("cache", "file", "{here}", None), ("cache", "file", "{here}/is/made", None),
    ("cache", "file", "{here}/old.log", '"{here}/old.log" is not a folder'),
    ("cache", "file", "{here}/old.log/x/y", '"{here}/old.log" is not a folder'),
])
def test_files_that_are_written_to(tmp_path, section, setting, path, expected):
    (tmp_path / "old.log").touch()
    text = f'[{section}]\n{setting} = "{path.format(here=tmp_path)}"'
    assert expected is None and load_text(text, {}) or mistakes(text) == [f"{section}: {setting}: {expected.format(here=tmp_path)}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.log"]


def test_a_whole_file():
    config = load_text("""
        [gateway]
        views = ["shop.views"]
        trust = ["127.0.0.1/32", "::1", "unix"]
        timeout = "2.5s"
        max_body = "64MB"
        admin = "localhost:9901"
        [upstreams.laravel]
        instances = ["http://10.0.0.5:8000", "https://[::1]", "unix:/run/laravel.sock"]
        balance = "least-requests"
        connect_timeout = "300ms"
        tls = { verify = false }
        [[routes]]
        path = "/*"
        upstream = "laravel"
        [[routes]]
        path = "/users/{id:int}"
        methods = ["GET"]
        aggregate.user = "laravel:/api/users/{id}?v={query.v:-1}"
        aggregate.team = { from = "laravel:/teams/{user.team.0.id}", json = { a = "{header.X-A}" }, optional = true, default = [] }
        [[routes]]
        path = "/old/{rest:path}"
        upstream = "laravel"
        rewrite = "/new/{rest}"
        request_headers = { set = { X-Name = "Zoë" }, remove = ["Cookie"] }
        [[routes]]
        path = "/gone"
        respond = { status = 410, json = { message = "moved" } }
        [nginx]
        max_body = 0
    """, {})
    assert (config.gateway.timeout, config.gateway.max_body, config.gateway.trust[2]) == (2.5, 64 * 1024 ** 2, "unix")
    assert (config.upstreams["laravel"].connect_timeout, config.upstreams["laravel"].tls.verify) == (0.3, False)
    assert [route.name for route in config.routes] == ["/*", "GET /users/{id:int}", "/old/{rest:path}", "/gone"]
    assert config.routes[1].aggregate["user"].from_ == "laravel:/api/users/{id}?v={query.v:-1}"
    assert config.routes[2].request_headers.set["X-Name"] == "Zo\xc3\xab"      # as it is sent, one character per byte
    assert config.routes[3].respond.json_ == {"message": "moved"}


def test_an_empty_file_is_a_configuration():
    assert load_text("", {}) == Config()


def test_the_repository_s_own_file_has_no_mistakes():
    config = load(Path(__file__).parent.parent.parent / "gateway.toml", {})
    assert {"/*", "GET /api/dashboard/{id:int}"} <= {route.name for route in config.routes}


# -- the environment

@pytest.mark.parametrize("written, environ, expected", [
    ("${NAME}", {"NAME": "x"}, "x"),
    ("a-${NAME}-${NAME}", {"NAME": "x"}, "a-x-x"),
    ("${NAME:-y}", {}, "y"),
    ("${NAME:-y}", {"NAME": ""}, "y"),
    ("${NAME:-y}", {"NAME": "x"}, "x"),
    ("a${NAME:-}b", {}, "ab"),
    ("a${NAME}b", {"NAME": ""}, "ab"),
    ("${A:-a}${B:-b}", {"A": "${B}"}, "${B}b"),          # what a variable holds is not looked at again
    ("$${NAME}", {}, "${NAME}"),
    ("$NAME", {}, "$NAME"),
    ("$$", {}, "$$"),
    ("${NAME:-a:-b}", {}, "a:-b"),
])
def test_variables(written, environ, expected):
    config = load_text(f"[[routes]]\npath = '/'\nrespond.text = '{written}'", environ)
    assert config.routes[0].respond.text == expected


def test_variables_stand_for_every_kind_of_value():
    environ = {"VERIFY": "false", "MANY": "7", "SOON": "3s", "SIZE": "1KB", "URL": "http://a", "BALANCE": "least-requests"}
    config = load_text("""
        gateway = { timeout = "${SOON}", max_body = "${SIZE}" }
        [upstreams.a]
        instances = ["${URL}"]
        balance = "${BALANCE}"
        max_connections = "${MANY}"
        tls.verify = "${VERIFY}"
        [[routes]]
        path = "/"
        respond = { json = { deep = ["${URL}"] } }
    """, environ)
    upstream = config.upstreams["a"]
    assert (config.gateway.timeout, config.gateway.max_body, upstream.max_connections, upstream.tls.verify, upstream.balance) == (
        3.0, 1024, 7, False, "least-requests")
    assert config.routes[0].respond.json_ == {"deep": ["http://a"]}


def test_every_missing_variable_is_named_with_its_place():
    assert mistakes('[upstreams.a]\ninstances = ["${ONE}", "http://${TWO}:${THREE}"]\ntls.server_name = "${FOUR}"') == [
        f'upstream "a": {place}: the environment has no {name}: set it, or write ${{{name}:-default}}'
        for place, name in [("instances[0]", "ONE"), ("instances[1]", "TWO"), ("instances[1]", "THREE"),
                            ("tls.server_name", "FOUR")]]


def test_overrides():
    environ = {"GATEWAY_ADMIN": "127.0.0.1:1", "GATEWAY_LOG": "off", "GATEWAY_TIMEOUT": "1s"}
    file = '[gateway]\nadmin = "127.0.0.1:2"\nlog = "stderr"\ntimeout = "2s"\nvia = "me"'
    assert load_text(file, environ).gateway == GatewaySettings(admin="127.0.0.1:1", log="off", timeout="1s", via="me")
    assert load_text(file, {}).gateway == GatewaySettings(admin="127.0.0.1:2", log="stderr", timeout="2s", via="me")
    assert load_text("", environ).gateway == GatewaySettings(admin="127.0.0.1:1", log="off", timeout="1s")
    unset = dict.fromkeys(environ, "")
    assert load_text(file, unset) == load_text(file, {})
    assert load_text("", {"GATEWAY_LOG": "/tmp/${x}"}).gateway.log == "/tmp/${x}"


def test_a_wrong_override_is_named_by_its_variable():
    assert mistakes("", {"GATEWAY_LOG": "/proc/none/x"}) == ['gateway: GATEWAY_LOG: there is no folder "/proc/none"']
    assert mistakes('[gateway]\ntimeout = "2s"', {"GATEWAY_TIMEOUT": "2", "GATEWAY_ADMIN": "0.0.0.0:1"}) == [
        'gateway: GATEWAY_ADMIN: "0.0.0.0:1" can be reached from outside: the admin listener is for this machine only, write'
        ' "127.0.0.1:1"',
        'gateway: GATEWAY_TIMEOUT: "2" is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']


# -- the file

def test_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gateway.toml", "other.toml", "third.toml"):
        (tmp_path / name).write_text(f'[gateway]\nvia = "{name}"')
    assert load(None, {}).gateway.via == "gateway.toml"
    assert load(None, {"GATEWAY_CONFIG": "other.toml"}).gateway.via == "other.toml"
    assert load("third.toml", {"GATEWAY_CONFIG": "other.toml"}).gateway.via == "third.toml"
    assert load(tmp_path / "third.toml", {}).gateway.via == "third.toml"
    assert read_text(None, {}) == ('[gateway]\nvia = "gateway.toml"', "gateway.toml")


@pytest.mark.parametrize("make, expected", [
    (lambda path: None, "there is no file {path}: create it, or name another with --config or GATEWAY_CONFIG"),
    (lambda path: path.write_bytes(b'via = "\xff"'), "byte 7 is not UTF-8, the encoding of TOML"),
    (lambda path: path.mkdir(), "the file cannot be read: Is a directory"),
    (lambda path: path.symlink_to("/dev/zero"), "the file is larger than 16 MB: is it a configuration?"),
], ids=["missing", "not UTF-8", "a folder", "without end"])
def test_files_that_cannot_be_read(tmp_path, make, expected):
    path = tmp_path / "gateway.toml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.problems == [expected.format(path=path)]
    assert caught.value.source == str(path)


# -- anything at all

scalars = (st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.dates() | st.text()
           | st.sampled_from(["", "/", "/x", "1s", "GET", "a", "${X}", "a:/{b.c}", "*", "http://a", "\x00", "é"]))
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["a", "b", "x y", "", "from"]), inner, max_size=3), max_leaves=6)


def table_like(model):
    names = [field.alias or name for name, field in model.model_fields.items()]
    return st.dictionaries(st.sampled_from([*names, "unknown"]), junk, max_size=6) | junk


anything = st.fixed_dictionaries({}, optional={
    "gateway": table_like(GatewaySettings), "nginx": table_like(Nginx), "cache": table_like(CacheStorage),
    "upstreams": st.dictionaries(st.sampled_from(["a", "b"]), table_like(UpstreamSettings), max_size=2) | junk,
    "routes": st.lists(table_like(Route), max_size=3) | junk})


@given(anything)
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_the_file_becomes_a_configuration_or_sentences(data):
    reader = Reader({})
    config = reader.config(data)
    assert (config is None) == bool(reader.problems)
    assert all(isinstance(problem, str) and ": " in problem for problem in reader.problems)
