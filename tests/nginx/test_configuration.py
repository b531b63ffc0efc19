"""The rendered nginx configuration as text; what nginx makes of it is in e2e/test_nginx.py."""

from __future__ import annotations

import re

import pytest

from gateway import gunicorn_conf
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.http.fields import PROXY_WORDS
from gateway.nginx.configuration import path_pattern, render


def config(routes=(), **sections) -> Config:
    return Config.model_validate({"upstreams": {"legacy": {"instances": ["http://127.0.0.1:9000"]}}, "routes": list(routes),
                                  **sections})


def route(path="/*", **settings):
    return {"path": path, "upstream": "legacy", **settings}


def values(text: str, directive: str) -> list[str]:
    return re.findall(rf"^\s*{directive}\s+([^;{{]*);", text, re.MULTILINE)


def test_every_instance_is_in_the_upstream():
    text = render(config(nginx={"instances": ["10.0.0.1:8001", "10.0.0.2:8001", "unix:/run/wicketgate.sock"]}))
    assert values(text, "server") == [f"{each} max_fails=5 fail_timeout=2s"
                                      for each in ("10.0.0.1:8001", "10.0.0.2:8001", "unix:/run/wicketgate.sock")]


def test_arguments_take_the_place_of_the_settings():
    text = render(config(nginx={"listen": "0.0.0.0:80"}), instances=["127.0.0.1:7001"], listen="127.0.0.1:7000")
    assert values(text, "listen") == ["127.0.0.1:7000 backlog=4096"]
    assert [each.split()[0] for each in values(text, "server")] == ["127.0.0.1:7001"]


@pytest.mark.parametrize("count, tries", [(1, "1"), (2, "2"), (3, "3"), (4, "3")])
def test_a_request_is_tried_on_at_most_three_instances(count, tries):
    text = render(config(), instances=[f"127.0.0.1:{8001 + number}" for number in range(count)])
    assert values(text, "proxy_next_upstream_tries") == [tries]


def test_only_what_is_idempotent_moves_to_another_instance():
    assert values(render(config()), "proxy_next_upstream") == ["error timeout"]


@pytest.mark.parametrize("sections, routes, seconds", [
    ({"gateway": {"timeout": "40s"}}, [], 45),
    ({"gateway": {"timeout": "1s"}}, [], 35),                         # the upstream's read_timeout of 30 s
    ({}, [route(), route("/report", timeout="2m")], 125),
    ({}, [route(timeout="90.2s")], 96),
])
def test_nginx_waits_longer_than_the_gateway(sections, routes, seconds):
    text = render(config(routes, **sections))
    assert values(text, "proxy_read_timeout") == [f"{seconds}s"]
    assert values(text, "proxy_send_timeout") == [f"{seconds}s"]


def test_each_word_of_a_proxy_is_said_once_by_nginx_or_not_at_all():
    said = [each.split()[0].lower() for each in values(render(config()), "proxy_set_header")]
    assert [name for name in sorted(PROXY_WORDS) if said.count(name) != 1] == []


def test_upgrades_exist_only_with_a_websocket_route():
    text = render(config([route()]))
    assert "upgrade" not in text.lower()
    assert values(text, 'proxy_set_header Connection') == ['""']


def test_a_websocket_route_gets_its_silence():
    text = render(config([route(), route("/chat", websocket=True, websocket_idle_timeout="10m"),
                          route("/live/{id}", websocket=True)]))
    assert re.findall(r"location (~ .*) \{", text) == ['~ "^(?:/chat|/live/[^/]+)$"']
    assert values(text, "proxy_read_timeout") == ["35s", "605s"]


@pytest.mark.parametrize("path, matches, misses", [
    ("/chat", ["/chat"], ["/chat/", "/chats", "/"]),
    ("/c.at", ["/c.at"], ["/chat"]),
    ("/room/{id:int}/ws", ["/room/7/ws"], ["/room/7", "/room/7/8/ws", "/room//ws"]),
    ("/live/*", ["/live/", "/live/a/b"], ["/live"]),
    ("/files/{rest:path}", ["/files/a/b"], ["/file/a"]),
    ("/a%20b/{id}", ["/a b/7"], ["/a%20b/7"]),                          # nginx matches the decoded path
])
def test_path_patterns(path, matches, misses):
    pattern = re.compile(path_pattern(path))
    assert [each for each in matches if not pattern.fullmatch(each)] == []
    assert [each for each in misses if pattern.fullmatch(each)] == []


@pytest.mark.parametrize("arguments, complaint", [
    ({"instances": []}, "nginx.instances: at least one is needed"),
    ({"instances": ["127.0.0.1"]}, 'nginx.instances: "127.0.0.1" is neither host:port nor unix:/path'),
    ({"instances": ["a:1; root /"]}, 'nginx.instances: "a:1; root /" is neither host:port nor unix:/path'),
    ({"listen": "nowhere"}, 'nginx.listen: "nowhere" is neither host:port nor unix:/path'),
])
def test_what_is_no_address_is_refused(arguments, complaint):
    with pytest.raises(ConfigError) as caught:
        render(config(), **arguments)
    assert caught.value.problems == [complaint]


@pytest.mark.parametrize("prefix, pid", [("", "nginx.pid"), ("/srv/gg", "/srv/gg/nginx.pid"), ("/srv/gg/", "/srv/gg/nginx.pid")])
def test_standalone_writes_only_below_its_prefix(prefix, pid):
    text = render(config(), prefix=prefix)
    assert values(text, "pid") == [pid]
    paths = values(text, r"\w+_temp_path") + values(text, "access_log") + values(text, "error_log")
    assert len(paths) == 7
    assert {each.rpartition("/")[0] for each in paths} == {prefix.rstrip("/")}


def test_the_part_to_include_has_no_frame():
    text = render(config(), standalone=False)
    assert not re.search(r"^\s*(events|http|pid|worker_processes|\w+_temp_path)\b", text, re.MULTILINE)
    assert text.startswith("#") and re.search(r"^server \{", text, re.MULTILINE)


def test_largest_body():
    assert values(render(config(nginx={"max_body": "10MB"})), "client_max_body_size") == ["10485760"]
    assert values(render(config()), "client_max_body_size") == ["0"]


def test_the_numbers_fit_gunicorns():
    text = render(config())
    assert values(text, "large_client_header_buffers") == [f"8 {gunicorn_conf.limit_request_line + 2}"]
    assert gunicorn_conf.limit_request_field_size == gunicorn_conf.limit_request_line
    instances, _clients = values(text, "keepalive_timeout")
    assert int(instances.rstrip("s")) < gunicorn_conf.keepalive
