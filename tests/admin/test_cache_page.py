"""The cache's pages on the admin listener, and purging: by the page, by the command, in every worker of every instance."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from running import Recorder, Running, ask
from stored import entry_of

from gateway.admin import listener as admin
from gateway.cache.entry import Variants
from gateway.cli import main
from gateway.config import Config
from gateway.message import Response
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry, registry
from tests.cache.conftest import redis_server  # noqa: F401
from tests.e2e.conftest import require  # noqa: F401
from tests.waiting import until

BROWSER = "text/html,*/*;q=0.8"
SAME = {"Host": "127.0.0.1:9901"}


@pytest.fixture
def application():
    """What the admin pages ask of a Gateway."""
    config = Config.model_validate({"upstreams": {"u": {"instances": ["http://127.0.0.1:1"]}},
                                    "routes": [{"path": "/*", "upstream": "u", "cache": {}}]})
    pipeline = Pipeline(config, view=lambda request: Response(204, []), log=RequestLog("off"), registry=Registry())
    yield SimpleNamespace(pipeline=pipeline, source="gateway.toml")
    pipeline.close()


@pytest.fixture
def client(application):
    return admin.create_admin(application).test_client()


@pytest.fixture
def kept(application):
    """An answer under the key "k", asked for twice."""
    entry = entry_of("https://shop.test/<a>", tags=["t"], headers=[("Content-Type", "text/plain"), ("X-Own", "<b>")])
    application.pipeline.store.put("k", Variants([entry]), 60, entry.request_time)
    for _ in range(2):
        application.pipeline.store.get("k")
    return application.pipeline.store


# -- looking

def test_what_is_stored(client, kept):
    shown = client.get("/cache").json
    [memory] = shown["tiers"]
    assert (memory["name"], memory["entries"], memory["limit"]) == ("memory", 1, 64 * 1024 ** 2) and memory["bytes"] > 500
    assert shown["hottest"] == [{"key": "k", "hits": 2, "bytes": memory["bytes"], "entries": 1}]
    assert shown["purges"] == {"heard": 0, "channels": [], "waiting": 0}


def test_counts_are_those_of_the_registry(client):
    registry.counter("gateway_cache_requests_total", "Requests.", {"route": "/counted", "outcome": "hit"}).inc(3)
    assert {"route": "/counted", "outcome": "hit", "value": 3.0} in client.get("/cache").json["numbers"]["requests"]
    assert "<code>/counted</code>" in client.get("/cache", headers={"Accept": BROWSER}).text


def test_an_entry(client, kept):
    [entry] = client.get("/cache?key=k").json["entries"]
    assert entry["headers"] == [["Content-Type", "text/plain"], ["X-Own", "<b>"]]
    assert (entry["status"], entry["url"], entry["tags"], entry["bytes"]) == (200, "https://shop.test/<a>", ["t"], 4)
    assert 58 < entry["fresh_for"] <= 60 and kept.memory.nodes["k"].hits == 2, "looking is no hit"
    kept.purger.purge(tag="t", soft=True)
    assert client.get("/cache?key=k").json["entries"][0]["fresh_for"] <= 0


@pytest.mark.parametrize("path, shown", [("/cache", "/cache?key=k"), ("/cache?key=k", "&lt;b&gt;")])
def test_pages_for_a_browser(client, kept, path, shown):
    answer = client.get(path, headers={"Accept": BROWSER})
    assert answer.content_type == "text/html; charset=utf-8" and shown in answer.text
    assert "<b>" not in answer.text and "<a>" not in answer.text


def test_nothing_under_a_key(client):
    assert client.get("/cache?key=none").status_code == 404


# -- purging

@pytest.mark.parametrize("asked", [{"url": "https://shop.test/<a>"}, {"prefix": "//shop.test/"}, {"tag": "t"}, {"everything": True},
                                   {"tag": "t", "soft": True}])
def test_purging(client, kept, asked):
    answer = client.post("/cache/purge", json=asked)
    assert (answer.status_code, answer.json) == (200, {"purged": asked, "told": 0, "waiting": 0})
    found = kept.get("k")
    assert found is None or asked.get("soft") and found[0].expires <= time.time()
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("body", ["", "nonsense", "[]", "null", '"t"', "{}", '{"soft": true}', '{"tag": ""}', '{"tag": 1}',
                                  '{"tag": "t", "url": "/a"}', '{"everything": false}',
                                  '{"everything": "yes"}', '{"colour": "red"}',
                                  '{"tag": "t", "soft": 1}', '{"url": "shop.test/a"}', '{"tag": null}'])
def test_what_is_no_purge(client, kept, body):
    answer = client.post("/cache/purge", data=body, content_type="application/json")
    assert answer.status_code == 400 and answer.json["detail"]
    assert kept.get("k") is not None


@pytest.mark.parametrize("headers, status", [
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415), ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "multipart/form-data"}, 415), ({}, 415), ({"Content-Type": "text/plain;a=application/json"}, 415),
    ({"Content-Type": "application/json", "Origin": "https://evil.test"}, 403),
    ({"Content-Type": "application/json", "Origin": "null"}, 403),
    ({"Content-Type": "application/json", "Origin": "http://127.0.0.1:80"}, 403),
    ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, 403),
    ({"Content-Type": "application/json", "Host": "evil.test"}, 403),
    ({"Content-Type": "application/json", "Origin": "http://127.0.0.1:9901", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Content-Type": "application/json; charset=utf-8"}, 200),
])
def test_no_other_site_can_purge(client, kept, headers, status):
    answer = client.open("/cache/purge", method="POST", data='{"tag": "t"}', headers={**SAME, **headers})
    assert answer.status_code == status
    assert (kept.get("k") is None) is (status == 200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_purging_is_a_post(client, method):
    answer = client.open("/cache/purge", method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_a_large_body_is_not_read(client):
    answer = client.post("/cache/purge", data=json.dumps({"tag": "x" * 70_000}), content_type="application/json")
    assert answer.status_code == 413


# -- with real instances

CONFIG = """
[upstreams.shop]
instances = ["http://127.0.0.1:{port}"]

{cache}

[[routes]]
path = "/*"
upstream = "shop"
cache = {{ ttl = "1h", tags = ["catalog"] }}
"""


def get(instance: Running, target: str) -> bytes:
    status, _, body = ask(instance.port, f"GET {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n".encode())
    assert status == 200
    return body


class Counting(Recorder):
    """An upstream whose answers differ each time."""

    @property
    def answer(self) -> bytes:
        body = str(len(self.heads)).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    @answer.setter
    def answer(self, value: bytes) -> None:
        pass


def all_workers_know(instance: Running, upstream: Recorder, before: set[bytes]) -> bool:
    """Ask until nothing old comes for a while, whichever worker answers."""
    return not {get(instance, "/a") for _ in range(12)} & before


@pytest.mark.parametrize("with_redis", [False, True], ids=["run directory", "redis"])
def test_the_command_purges_in_every_worker(serve, tmp_path, request, with_redis):
    cache = f'[cache]\nredis = "{request.getfixturevalue("redis_server")().url}"' if with_redis else ""
    upstream = Counting()
    config = CONFIG.format(port=serve(upstream), cache=cache)
    instances = [Running(tmp_path / f"instance{number}", config, workers=2) for number in range(1 + with_redis)]
    try:
        before = {get(instance, "/a") for instance in instances for _ in range(16)}
        assert len(upstream.heads) == len(before) <= 4, "one for each worker at most"
        file = tmp_path / "cli.toml"
        file.write_text(f'[gateway]\nadmin = "127.0.0.1:{instances[0].admin}"\n')
        done = CliRunner().invoke(main, ["purge", "--config", str(file), "--tag", "catalog"])
        assert (done.exit_code, done.output) == (0, "purged tag catalog\n")
        for instance in instances:
            until(lambda instance=instance: all_workers_know(instance, upstream, before))
        shown = ask(instances[0].admin, b"GET /cache HTTP/1.0\r\nHost: localhost\r\n\r\n")[2]
        assert {"route", "outcome", "value"} <= set(json.loads(shown)["numbers"]["requests"][0])
    finally:
        for instance in instances:
            instance.stop()


@pytest.mark.parametrize("arguments, code, output", [
    ([], 2, "Purge one of"), (["--tag", "a", "--url", "/b"], 2, "Purge one of"),
    (["--everything", "--tag", "a"], 2, "Purge one of"),
    (["--everything"], 1, "no gateway answers at 127.0.0.1:1"),
])
def test_the_command_when_it_cannot(tmp_path, arguments, code, output):
    file = tmp_path / "gateway.toml"
    file.write_text('[gateway]\nadmin = "127.0.0.1:1"\n')
    done = CliRunner().invoke(main, ["purge", "--config", str(file), *arguments])
    assert done.exit_code == code and output in done.output


def test_the_command_without_an_admin_listener(tmp_path):
    (tmp_path / "gateway.toml").write_text("")
    done = CliRunner().invoke(main, ["purge", "--config", str(tmp_path / "gateway.toml"), "--everything"])
    assert done.exit_code == 1 and "gateway.admin is not set" in done.output


def test_the_command_says_what_was_wrong(client, tmp_path, application, serve):
    import socket
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(5)
    server = admin.start(sock, application)
    try:
        (tmp_path / "gateway.toml").write_text(f'[gateway]\nadmin = "127.0.0.1:{sock.getsockname()[1]}"\n')
        done = CliRunner().invoke(main, ["purge", "--config", str(tmp_path / "gateway.toml"), "--url", "shop.test/a"])
        assert done.exit_code == 1 and "is not an address" in done.output
        done = CliRunner().invoke(main, ["purge", "--config", str(tmp_path / "gateway.toml"), "--url", "/a", "--soft"])
        assert (done.exit_code, done.output) == (0, "purged url /a, softly\n")
    finally:
        server.stop(timeout=1)
