"""The admin pages, over their WSGI application and over a real listener."""

import json
from types import SimpleNamespace

import pytest
from gevent import socket
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin import listener as admin
from gateway.build import Build, own_version
from gateway.config import Config
from gateway.local import run_directory as rundir
from gateway.message import Response
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CONFIG = Config.model_validate({
    "upstreams": {"users": {"instances": ["http://127.0.0.1:5001", "http://127.0.0.1:5002"]}},
    "routes": [
        {"path": "/*", "upstream": "users"},
        {"path": "/board", "aggregate": {"user": "users:/u", "team": "users:/t"}},
        {"path": "/gone/<script>", "respond": {"status": 410}, "methods": ["GET"]},
    ],
})


@pytest.fixture(scope="module")
def application():
    """What the admin pages ask of a Gateway."""
    pipeline = Pipeline(CONFIG, view=lambda request: Response(204, []), log=RequestLog("off"), registry=Registry())
    yield SimpleNamespace(pipeline=pipeline, source="/etc/gateway.toml")
    pipeline.close()


@pytest.fixture(scope="module")
def client(application):
    return admin.create_admin(application).test_client()


@pytest.fixture
def instance(tmp_path):
    """``instance(state, ...)`` makes this process part of an instance with workers in these states."""
    def make(*states):
        for slot, state in enumerate(states):
            rundir.RunDir(tmp_path, slot).set_state(state)
        return rundir.RunDir(tmp_path)

    rundir.enter(rundir.RunDir(tmp_path))
    yield make
    rundir.enter(None)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/routes", "/config"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_page_without_an_instance(client, path, method):
    answer = client.open(path, method=method)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert bool(answer.data) is (method == "GET")


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_changed(client, method, path):
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("host, allowed", [
    ("127.0.0.1:9901", True), ("127.0.0.1", True), ("127.8.9.10:80", True), ("localhost", True), ("LocalHost:9901", True),
    ("[::1]", True), ("[::1]:9901", True),
    ("", False), ("shop.test", False), ("127.0.0.1.shop.test", False), ("localhost.shop.test", False), ("10.0.0.1", False),
    ("169.254.169.254", False), ("[::2]", False), ("[fe80::1]", False), ("0.0.0.0", False), ("127.0.0.1@shop.test", False),
    ("shop.test@127.0.0.1", False), ("127.0.0.1,shop.test", False), ("127.0.0.1:x", False), ("127.0.0.1/x", False), ("::1", False),
    ("127.1", False), ("2130706433", False)])
def test_host_is_this_machine(client, host, allowed):
    answer = client.get("/healthz", headers={"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"},
                        environ_overrides={"HTTP_HOST": host})
    assert answer.status_code == (200 if allowed else 403)
    assert allowed or b"pid" not in answer.data


def test_no_host_at_all(application):
    started = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/healthz", "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "9901",
               "SERVER_PROTOCOL": "HTTP/1.0", "wsgi.url_scheme": "http"}
    b"".join(admin.create_admin(application)(environ, lambda status, headers, exc=None: started.append(status)))
    assert started == ["403 FORBIDDEN"]


@pytest.mark.parametrize("states, ready", [
    (["serving"], True), (["serving", "draining"], True), (["leaving"], True), (["retiring", "starting"], True),
    (["draining"], False), (["draining", "draining"], False), (["starting"], False), (["failed"], False), ([], False)])
def test_readiness_is_that_of_the_instance(client, instance, states, ready):
    instance(*states).report_config(["route /a: no target"])
    answer = client.get("/readyz")
    assert answer.status_code == (200 if ready else 503)
    assert answer.json["ready"] is ready
    assert [worker["state"] for worker in answer.json["workers"]] == states
    assert answer.json["config_problems"] == ["route /a: no target"]
    assert client.get("/healthz").status_code == 200, "a process that is not ready still turns"
    assert (b"not ready" in client.get("/").data) is not ready


def test_all_mistakes_of_a_broken_reload_are_shown(client, instance):
    problems = ['route "/users/{id}": cache.tll: unknown setting, did you mean ttl?', "upstreams.<b>: no instances"]
    place = instance("serving")
    place.report_config(problems)
    assert client.get("/config").json["problems"] == problems
    page = client.get("/").data.decode()
    assert "did you mean ttl?" in page and "upstreams.&lt;b&gt;: no instances" in page and "<b>" not in page
    place.report_config([])
    assert client.get("/config").json["problems"] == []
    assert "cannot be used" not in client.get("/").data.decode()


@pytest.mark.parametrize("build", [Build("pure"), Build("compiled"), Build("pure", "gateway/x.py changed: the sources run")])
def test_the_build_that_runs_is_said(application, build):
    client = admin.create_admin(application, build).test_client()
    found = client.get("/healthz").json
    assert (found["version"], found["build"]) == (own_version(), build.name)
    page = client.get("/").data.decode()
    assert str(build) in page and build.notice in page and ('"fair">gateway/x.py' in page) is bool(build.notice)


def test_config_says_what_is_configured(client):
    assert client.get("/config").json == {
        "problems": [], "source": "/etc/gateway.toml", "routes": 3,
        "upstreams": {"users": ["http://127.0.0.1:5001", "http://127.0.0.1:5002"]}}


def test_routes_for_programs(client, application):
    listed = client.get("/routes").json["routes"]
    assert [(route["name"], route["target"]) for route in listed] == [
        ("/*", "upstream users"), ("GET /board", "aggregate user, team"), ("GET /gone/<script>", "respond 410")]
    assert [route["steps"] for route in listed] == [application.pipeline.describe(route) for route in application.pipeline.routes]


def test_routes_for_a_browser(client):
    answer = client.get("/routes", headers={"Accept": BROWSER})
    page = answer.data.decode()
    assert answer.content_type == "text/html; charset=utf-8"
    assert "GET /gone/&lt;script&gt;" in page and "<script>" not in page
    assert "aggregate user, team" in page and "<li>observe: " in page


@pytest.mark.parametrize("accept, kind", [("", "text/plain; version=0.0.4; charset=utf-8"),
                                          ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")])
def test_metrics(client, instance, accept, kind):
    instance("serving").report_config(["one", "two"])
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.content_type.startswith(kind)
    assert b"gateway_build_info{" in answer.data
    if not accept:
        assert list(text_string_to_metric_families(answer.data.decode()))


@pytest.mark.parametrize("accept, kind", [("*/*", "application/problem+json"), (BROWSER, "text/html; charset=utf-8")])
def test_errors_as_asked(client, accept, kind):
    answer = client.get("/nothing", headers={"Accept": accept})
    assert (answer.status_code, answer.content_type) == (404, kind)


def test_page_that_fails_is_a_500_with_its_cause_in_the_log_only(instance, client, monkeypatch, caplog):
    def fail(place):
        raise RuntimeError("secret")

    instance("serving")
    monkeypatch.setattr(rundir.RunDir, "config_problems", fail)
    answer = client.get("/config")
    assert answer.status_code == 500 and b"secret" not in answer.data
    assert answer.json["code"] == "internal_server_error"
    assert "RuntimeError: secret" in caplog.text


@pytest.fixture
def server(application):
    """A real admin listener."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    server = admin.start(sock, application)
    yield server
    server.stop(timeout=1)


@pytest.fixture
def listener(server):
    """The address of a real admin listener."""
    return server.address


def exchange(address, text):
    """Everything that comes back until the other side closes."""
    with socket.create_connection(address, timeout=10) as sock:
        sock.sendall(text)
        received = b""
        while piece := sock.recv(65536):
            received += piece
        return received


def test_listener_answers_and_closes(listener, capfd):
    received = exchange(listener, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:9901\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\nConnection: close" in head
    assert json.loads(body)["status"] == "ok"
    assert capfd.readouterr() == ("", ""), "it has no access log"


@pytest.mark.parametrize("path", ["/metrics", "/routes", "/"])
def test_listener_serves_pages(listener, path):
    assert exchange(listener, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("head", [b"Host: shop.test\r\n", b"Host: 127.0.0.1\r\nHost: shop.test\r\n", b""])
def test_listener_refuses_strangers(listener, head):
    status = exchange(listener, b"GET /healthz HTTP/1.1\r\n" + head + b"\r\n").split(b" ")[1]
    assert status in (b"400", b"403")


def test_a_connection_that_sends_half_a_head_is_closed(server):
    server.seconds = 0.05
    assert exchange(server.address, b"GET /hea") == b""


# -- pages for people

@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/routes", "/config", "/cache"])
def test_a_browser_finds_the_way_back_on_every_page(client, path):
    answer = client.get(path, headers={"Accept": BROWSER})
    assert answer.mimetype == "text/html" and '<a href="/">Overview</a>' in answer.text


@pytest.mark.parametrize("path, kind", [
    ("/healthz", "application/json"), ("/readyz", "application/json"), ("/config", "application/json"),
    ("/cache", "application/json"), ("/metrics", "text/plain")])
@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1"])
def test_a_program_gets_what_is_made_for_it(client, path, kind, accept):
    kind = "application/openmetrics-text" if "openmetrics" in accept and path == "/metrics" else kind
    assert client.get(path, headers={"Accept": accept}).mimetype == kind


def test_the_overview_is_green_only_when_all_is_well(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as gone:
        up, down = (f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (there, gone))
        gone.close()
        for instances, said in (([up], '<span class="good">ready</span>'),
                                ([up, down], '<span class="fair">ready, with instances down of users</span>'),
                                ([down], "nothing answers for users")):
            config = Config.model_validate({"upstreams": {"users": {"instances": instances}}})
            pipeline = Pipeline(config, view=lambda request: Response(204, []), log=RequestLog("off"), registry=Registry())
            page = admin.create_admin(SimpleNamespace(pipeline=pipeline, source="")).test_client().get("/").text
            pipeline.close()
            assert said in page
            assert page.count('<span class="bad">down</span>') == instances.count(down)
            assert page.count('<span class="good">up</span>') == instances.count(up)
