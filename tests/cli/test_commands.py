import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from click.testing import CliRunner
from running import Running, ask, connects

from gateway import cli, create_app, demo
from gateway.build import RUNNING, Build
from gateway.cli.terminal import printable
from gateway.errors import ConfigError
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
FILE = """
[gateway]
admin = "127.0.0.1:9901"
trust = ["127.0.0.1/32"]

[upstreams.legacy]
instances = ["http://10.0.0.5:8000/", "http://10.0.0.6:8000", "unix:/run/legacy.sock"]

[upstreams.users]
instances = ["https://users.test"]
host = "upstream"

[[routes]]
path = "/*"
upstream = "legacy"

[[routes]]
host = "shop.test"
path = "/users/{id}"
methods = ["GET"]
header = { X-Beta = "*" }
upstream = "users"
rewrite = "/v2/users/{id}"
timeout = "1.5s"

[[routes]]
path = "/old/*"
respond = { status = 410 }
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(*arguments)`` runs the command line in a folder with ``gateway.toml``, which is FILE."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "gateway.toml").write_text(FILE)
    return lambda *arguments, **more: CliRunner().invoke(cli.main, arguments, prog_name="gateway", **more)


def write(text, path="gateway.toml"):
    Path(path).write_text(text)


# -- check

def test_check(command):
    result = command("check")
    assert result.stdout == ("gateway.toml: no mistakes; 3 routes, 2 upstreams\n"
                             "  note: max_connections, connection pools and balancing count in each worker process for itself\n")
    assert (result.stderr, result.exit_code) == ("", 0)


def test_check_says_every_mistake_on_stderr(command):
    write('[gateway]\ntimeout = "0s"\n[[routes]]\npath = "/x"\nupstrem = "a"')
    result = command("check")
    assert result.stderr.splitlines() == [
        "gateway.toml: 3 mistakes",
        '  gateway: timeout: "0s": a duration must be more than 0',
        '  route "/x": upstrem: unknown setting, did you mean upstream?',
        '  route "/x": a route needs a target: one of upstream, aggregate, view, respond, files, handler']
    assert (result.stdout, result.exit_code) == ("", 2)


@pytest.mark.parametrize("arguments", [["check"], ["routes"], ["explain", "GET", "/"], ["run"], ["nginx"]])
def test_every_command_refuses_a_file_with_mistakes(command, arguments):
    write("[gateway\n")
    result = command(*arguments)
    assert result.stderr == ("gateway.toml: 1 mistake\n  line 1, column 9: expected ']' at the end of a table declaration\n")
    assert result.exit_code == 2


def test_the_file_is_an_option_or_a_variable(command, monkeypatch):
    os.remove("gateway.toml")
    result = command("check")
    assert result.exit_code == 2
    assert f"there is no file {os.getcwd()}/gateway.toml" in result.stderr
    write(FILE, "a.toml")
    write(FILE, "b.toml")
    monkeypatch.setenv("GATEWAY_CONFIG", "a.toml")
    assert command("check").stdout.startswith("a.toml: no mistakes")
    assert command("check", "-c", "b.toml").stdout.startswith("b.toml: no mistakes")


@pytest.mark.parametrize("variable, value", [("WEB_CONCURRENCY", "abc"), ("WEB_CONCURRENCY", "-1"), ("WEB_CONCURRENCY", "1.5"),
                                             ("GUNICORN_CMD_ARGS", "--workers '2")])
@pytest.mark.parametrize("arguments", [["check"], ["explain", "GET", "/x"], ["run"]], ids=lambda arguments: arguments[0])
def test_a_variable_that_gunicorn_cannot_read_is_named(command, arguments, variable, value):
    # in a process of its own: Gunicorn reads some of them once, when it is imported
    done = subprocess.run([sys.executable, "-m", "gateway.cli", *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), variable: value})
    assert done.returncode == 2, done.stderr
    assert f"the environment: 1 mistake\n  {variable}: " in done.stderr and "Traceback" not in done.stderr


def test_an_empty_variable_of_gunicorn_is_an_unset_one(command):
    done = subprocess.run([sys.executable, "-m", "gateway.cli", "explain", "GET", "http://shop.test/x"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "WEB_CONCURRENCY": "", "GUNICORN_CMD_ARGS": " "})
    assert done.returncode == 0, done.stderr


def test_check_finds_what_only_the_views_show(command):
    write('[[routes]]\npath = "/shop/*"\nview = true')
    assert "view: no Flask view answers this path" in command("check").stderr
    write('[gateway]\nviews = ["no_such_module"]')
    result = command("check")
    assert "no_such_module" in result.stderr
    assert result.exit_code == 2


def test_check_finds_every_mistake_of_a_composition(command):
    write(FILE + '[[routes]]\npath = "/page"\naggregate = { a = { from = "users:/{id}", pick = ["x"], rename = { y = "z" } } }')
    result = command("check")
    assert result.stderr.splitlines()[1:] == ["  route \"/page\": aggregate.a.from: {id}: the path has no parameter 'id'",
                                              '  route "/page": aggregate.a.rename: "y" is not picked']
    assert result.exit_code == 2


def test_check_finds_views_in_the_current_folder(command):
    write("from flask import Blueprint\nshop = Blueprint('shop', __name__)\n"
          "@shop.get('/shop/<int:number>')\ndef show(number): return str(number)\n", "views_for_check.py")
    write('[gateway]\nviews = ["views_for_check"]\n[[routes]]\npath = "/shop/*"\nview = true')
    result = command("check")
    assert result.stdout.startswith("gateway.toml: no mistakes; 1 route, 0 upstreams\n")
    assert result.exit_code == 0


UPSTREAM = '[upstreams.a]\ninstances = ["https://a.test"]\n'


@pytest.mark.parametrize("text, expected", [
    (UPSTREAM + 'tls.ca = "bad.pem"', 'upstream "a": tls.ca bad.pem: '),
    (UPSTREAM + 'tls.certificate = "bad.pem"', 'upstream "a": tls.certificate bad.pem, key in the same file: '),
    (UPSTREAM + 'tls.server_name = "a..b"', "upstream \"a\": tls.server_name 'a..b': "),
    ('[[routes]]\npath = "/"\nrespond.json = 99999999999999999999',
     'route "/": respond.json: cannot be written as JSON: Integer exceeds 64-bit range'),
    ('[gateway]\nviews = ["exiting_for_check"]', "gateway: views: cannot import 'exiting_for_check': SystemExit: 0"),
    ('[gateway]\nlog = "missing/requests.log"', 'gateway: log: there is no folder "'),
    ('[cache]\nfile = "bad.pem/deeper"', 'cache: file: "'),
    ("x = " + "[" * 3000, "tables and lists stand in each other, more than 100 deep"),
])
def test_check_accepts_nothing_that_a_worker_refuses(command, text, expected):
    """And the other way round: the application, made as a worker makes it, says the same."""
    write("this is no certificate", "bad.pem")
    write("import sys\nsys.exit(0)", "exiting_for_check.py")
    write(text)
    result = command("check")
    [_, mistake] = result.stderr.splitlines()
    assert mistake.startswith(f"  {expected}")
    assert (result.stdout, result.exit_code) == ("", 2)
    with pytest.raises(ConfigError) as caught:
        create_app("gateway.toml")
    assert caught.value.problems == [mistake.strip()]


def test_check_leaves_the_log_file_alone(command):
    write('[gateway]\nlog = "requests.log"\n' + FILE.replace("[gateway]", "", 1).replace('admin = "127.0.0.1:9901"', "")
          + '[[routes]]\npath = "/page"\naggregate = { user = "users:/me" }')
    assert command("check").exit_code == 0
    assert "log to requests.log" in command("explain", "GET", "/old/x").stdout
    assert not os.path.exists("requests.log")


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["routes", "--json"], ["nginx"]])
def test_looking_at_a_file_loads_no_server(command, arguments):
    write(FILE + '[[routes]]\npath = "/page"\naggregate = { user = "users:/me" }')
    program = f"""if True:
        import sys
        from gateway.cli import main
        try:
            main({arguments!r})
        except SystemExit as end:
            assert not end.code, end.code
        print(sorted({{"gevent", "flask", "requests", "rich", "gunicorn"}} & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr == "[]\n"


# -- schema, routes

def test_schema(command):
    assert json.loads(command("schema").stdout)["title"] == "Configuration of Wicketgate"


def test_routes_are_listed_the_most_specific_first(command):
    lines = [re.split(r" {2,}", line.rstrip()) for line in command("routes").stdout.splitlines()]
    assert lines == [
        ["METHODS", "HOST", "PATH", "CONDITIONS", "TARGET", "TIMEOUT"],
        ["GET", "shop.test", "/users/{id}", "header X-Beta=*", "upstream users", "1.5s"],
        ["any", "any", "/old/*", "respond 410"],
        ["any", "any", "/*", "upstream legacy"]]


def test_routes_as_json(command):
    rows = json.loads(command("routes", "--json").stdout)
    assert rows[0] == {"host": "shop.test", "methods": ["GET"], "path": "/users/{id}", "header": {"X-Beta": "*"}, "query": {},
                       "cookie": {}, "target": "upstream users", "timeout": 1.5}
    assert [row["path"] for row in rows] == ["/users/{id}", "/old/*", "/*"]


def test_routes_of_views_are_listed_too(command):
    write("from flask import Blueprint\nshop = Blueprint('shop', __name__)\n"
          "@shop.get('/shop/<int:number>')\ndef show(number): return str(number)\n", "views_for_routes.py")
    write('[gateway]\nviews = ["views_for_routes"]')
    assert "/shop/{number:int}" in [row["path"] for row in json.loads(command("routes", "--json").stdout)]


def test_brackets_in_a_route_are_no_markup(command):
    write('[[routes]]\npath = "/[bold]x[/bold]"\nrespond = {}')
    assert "/[bold]x[/bold]" in command("routes").stdout


# -- explain

def test_explain_names_the_route_the_steps_and_the_addresses(command):
    result = command("explain", "GET", "http://Shop.test:8080/users/a%2Fb?x=1", "-H", "x-beta: 2")
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        "GET http://Shop.test:8080/users/a%2Fb?x=1",
        'route "GET shop.test/users/{id} [header X-Beta=*]", id = "a/b"',
        "  GET shop.test/users/{id} [header X-Beta=*]: answers",
        "  /*: matches too, but its host is less specific",
        "steps, outermost first:"]
    assert any(line.startswith("  forward to users") for line in lines)
    assert lines[-2:] == ['upstream "users":', "  GET https://users.test/v2/users/a%2Fb?x=1"]
    assert result.exit_code == 0


def test_explain_lists_every_instance(command):
    lines = command("explain", "POST", "/café/a b?a=%DF").stdout.splitlines()
    assert lines[0] == "POST http:///caf%C3%A9/a%20b?a=%DF"
    assert lines[-4:] == ['upstream "legacy", one of:', "  POST http://10.0.0.5:8000/caf%C3%A9/a%20b?a=%DF",
                          "  POST http://10.0.0.6:8000/caf%C3%A9/a%20b?a=%DF",
                          "  POST /caf%C3%A9/a%20b?a=%DF over unix:/run/legacy.sock"]


PAGE = FILE + """
[[routes]]
path = "/page/{id}"
methods = ["POST"]
[routes.aggregate]
user = "users:/users/{id}?of={query.of:-me}&a={body.a:-1}"
orders = { from = "legacy:/orders?user={user.id}&last={id}", method = "POST", json = "{body.a}" }
news = { from = "users:/news?page={query.page}", optional = true }
"""


def test_explain_says_what_a_composition_asks_for(command):
    """What the request gives is filled in; what its body and other parts give is not known yet."""
    write(PAGE)
    lines = command("explain", "POST", "/page/a b?of=%26&page=2").stdout.splitlines()
    assert lines[-9:] == ["  aggregate: user, orders after user, news",
                          'part "user", upstream "users":', "  GET https://users.test/users/a%20b?of=%26&a={body.a:-1}",
                          'part "orders", upstream "legacy", one of:',
                          "  POST http://10.0.0.5:8000/orders?user={user.id}&last=a%20b",
                          "  POST http://10.0.0.6:8000/orders?user={user.id}&last=a%20b",
                          "  POST /orders?user={user.id}&last=a%20b over unix:/run/legacy.sock",
                          'part "news", optional, upstream "users":', "  GET https://users.test/news?page=2"]


def test_explain_says_what_a_part_lacks(command):
    write(PAGE)
    result = command("explain", "POST", "/page/7")
    assert result.stdout.splitlines()[-2:] == ['part "news", optional, upstream "users":',
                                               "  not asked: query parameter 'page' is missing"]
    write(PAGE.replace(", optional = true", ""))
    result = command("explain", "POST", "/page/7")
    assert result.stdout.splitlines()[-1] == "answered 400 bad_request: query parameter 'page' is missing"
    assert result.exit_code == 1


@pytest.mark.parametrize("target, endpoint", [
    ("/shop/7", "shop.show"), ("/shop/x", "none, Flask answers 404"), ("/shop/list", "none, Flask answers 308")])
def test_explain_names_the_endpoint_of_a_view(command, target, endpoint):
    write("from flask import Blueprint\nshop = Blueprint('shop', __name__)\n"
          "@shop.get('/shop/<int:number>')\ndef show(number): return str(number)\n"
          "@shop.get('/shop/list/')\ndef index(): return ''\n", "views_for_explain.py")
    write('[gateway]\nviews = ["views_for_explain"]\n[[routes]]\npath = "/shop/*"\nview = true')
    assert command("explain", "GET", target).stdout.splitlines()[-2:] == ["  view", f"endpoint: {endpoint}"]


@pytest.mark.parametrize("arguments, expected", [
    (["GET", "http://shop.test/users/."], "answered 400 invalid_target: id would not stay in its place in the path"),
    (["TRACE", "http://shop.test/"], "answered 405 method_not_allowed: allowed: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (["GE T", "http://shop.test/"], "answered 400 bad_request: Invalid HTTP request line: 'GE T / HTTP/1.1'"),
    (["GET", "http://a b/x"], "answered 400 invalid_host: the Host is not a host name or an address with an optional port"),
    (["GET", "http://[::1/x"], "answered 400 invalid_host: the Host is not a host name or an address with an optional port"),
    (["GET", "http://bücher.test/x"], "answered 400 invalid_host: the Host is not a host name or an address with an optional port"),
    (["GET", "http://shop.test/", "-H", "X Y: 1"], "answered 400 bad_request: Invalid HTTP header name: 'X Y'"),
    (["GET", "http://shop.test/", "-H", "X_Y: 1"], "answered 400 bad_request: Invalid HTTP header name: 'X_Y'"),
    (["GET", "*"], "answered 400 bad_request: Invalid HTTP request line: 'GET * HTTP/1.0'"),
])
def test_explain_says_what_a_client_gets_when_nothing_answers(command, arguments, expected):
    result = command("explain", *arguments, "-H", "X-Beta: 1")
    assert expected in result.stdout.splitlines()
    assert result.exit_code == 1


def test_explain_says_what_the_gateway_answers_itself(command):
    result = command("explain", "OPTIONS", "*")
    assert result.stdout.splitlines()[1:] == ["answered 200 by the gateway itself"]
    assert result.exit_code == 0


CACHED = """
[gateway]
admin = "127.0.0.1:{port}"
[upstreams.shop]
instances = ["http://127.0.0.1:{upstream}"]
[cache]
file = "kept"
[[routes]]
path = "/*"
upstream = "shop"
cache = {{ key = {{ ignore_query = ["utm_*"] }} }}
[[routes]]
path = "/plain"
upstream = "shop"
[[routes]]
path = "/fixed"
respond = {{ text = "x" }}
request_headers = {{ remove = ["X-Host"] }}
cache = {{ ttl = "1m" }}
"""


def cache_part(result):
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.output
    return [line[2:] for line in lines[lines.index("cache, for this request:") + 1:] if line.startswith("  ")][:-1]


def test_explain_says_what_the_cache_makes_of_the_request(command):
    write(CACHED.format(port=1, upstream=1))
    result = command("explain", "GET", "http://shop.test/a?utm_x=1&q=2", "-H", "Cookie: sid=1")
    lines = cache_part(result)
    assert lines[:2] == ["key: http://shop.test/a?q=2", "not in the key: query utm_x=1"]
    assert lines[-1].startswith("stored: nothing in file (no gateway answers at 127.0.0.1:1")
    assert any("key.cookies" in line for line in lines)
    assert cache_part(command("explain", "POST", "http://shop.test/a"))[0] == "goes past the cache: the method POST"
    assert "cache, for this request:" not in command("explain", "GET", "http://shop.test/plain").stdout


def test_explain_has_the_cache_compare_the_fields_that_go_on(command):
    """As a worker does: what the route writes into a request, and not what came."""
    write(CACHED.format(port=1, upstream=1).replace('{ ignore_query = ["utm_*"] } }', '{ headers = ["X-Client"] } }\n'
                                                    'request_headers = { set = { X-Client = "ours" } }'))
    key = cache_part(command("explain", "GET", "http://shop.test/a", "-H", "X-Client: theirs"))[0]
    assert key.startswith("key: ") and "sent x-client: ours" in key
    fixed = command("explain", "GET", "http://shop.test/fixed", "-H", "X-Host: y").stdout
    assert "key: http://shop.test/fixed\n" in fixed and "goes past" not in fixed


def test_explain_says_what_a_trusted_proxy_makes_of_the_request(command):
    write(CACHED.format(port=1, upstream=1).replace("[gateway]", '[gateway]\ntrust = ["10.0.0.0/8"]'))
    asking = ("explain", "GET", "https://shop.test/a", "-H", "X-Forwarded-Port: 8443", "-H", "X-Forwarded-Ssl: on", "--peer")
    result = command(*asking, "10.0.0.7")
    assert cache_part(result)[0] == "key: https://shop.test/a | port 8443 | x-forwarded-ssl: on"
    assert result.stdout.splitlines()[1] == "10.0.0.7 is trusted, and believed: client 10.0.0.7, https://shop.test, port 8443"
    stranger = command(*asking, "192.0.2.7")
    assert cache_part(stranger)[0].startswith("goes past the cache: x-forwarded-ssl")
    assert stranger.stdout.splitlines()[1] == "192.0.2.7 is not in gateway.trust: what it says of its client is not believed"
    refused = command(*asking, "proxy.test")
    assert refused.exit_code == 2 and "'proxy.test' is neither an IP address nor unix" in refused.stderr


def test_explain_says_what_is_stored(command, tmp_path, serve):
    """By a running instance, whose memory nobody else sees; without one, in a tier that is shared."""
    answers = iter(["max-age=60", "public, max-age=60, stale-while-revalidate=9"])

    def shop(sock, address):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(65536)
        sock.sendall(f"HTTP/1.1 200 OK\r\nCache-Control: {next(answers)}\r\nVary: Accept-Language\r\n"
                     "Content-Length: 2\r\nConnection: close\r\n\r\nok".encode())
        sock.close()

    upstream = serve(shop)
    gateway = Running(tmp_path, CACHED.format(port=1, upstream=upstream).replace('"kept"', f'"{tmp_path}/kept"'))
    write(CACHED.format(port=gateway.admin, upstream=upstream))
    try:
        ask(gateway.port, b"GET /a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        ask(gateway.port, b"GET /a HTTP/1.1\r\nHost: shop.test\r\nAccept-Language: de\r\nConnection: close\r\n\r\n")
        german = cache_part(command("explain", "GET", "http://shop.test/a", "-H", "Accept-Language: de", "-H", "Cookie: a=1"))
        plain = cache_part(command("explain", "GET", "http://shop.test/a"))
        cookie = cache_part(command("explain", "GET", "http://shop.test/a", "-H", "Cookie: a=1"))
        french = cache_part(command("explain", "GET", "http://shop.test/a", "-H", "Accept-Language: fr"))
        nothing = cache_part(command("explain", "GET", "http://shop.test/b"))
    finally:
        gateway.stop()
    assert german[-4].startswith("stored: in the worker that answers at 127.0.0.1:")
    assert re.fullmatch(r"> 200, \d+ s old, fresh for \d+ s, accept-language: de, public", german[-3])
    assert german[-1] == plain[-1] == "fresh: it is served"
    assert re.fullmatch(r"> 200, \d+ s old, fresh for \d+ s, accept-language: not sent", plain[-2])
    assert cookie[-1].startswith("not for this request") and "(cookie)" in cookie[-1]
    assert french[-1].startswith("none of them is for this request")
    assert nothing[-1].startswith("stored: nothing in the worker")
    alone = cache_part(command("explain", "GET", "http://shop.test/a"))
    assert alone[-1] == "fresh: it is served" and alone[-4].startswith("stored: in file (no gateway answers at")


def test_explain_knows_the_host_of_the_url_as_a_field(command):
    write('[[routes]]\npath = "/"\nheader = { Host = "shop.test" }\nrespond = {}')
    assert command("explain", "GET", "http://shop.test/").exit_code == 0
    assert command("explain", "GET", "http://shop.test/", "-H", "host: other.test").exit_code == 1


def test_explain_takes_a_method_in_lower_case_for_another_one(command):
    said = command("explain", "get", "http://shop.test/users/7", "-H", "X-Beta: 1").output
    assert said.startswith("get http://shop.test/users/7\nnote: get is another method than GET: ")
    assert "note: " not in command("explain", "GET", "http://shop.test/users/7").output


def test_explain_says_405(command):
    write('[[routes]]\npath = "/a"\nmethods = ["GET"]\nrespond = {}')
    result = command("explain", "PUT", "/a", "-H", "Host: x.test")
    assert result.stdout.splitlines() == ["PUT http://x.test/a", "no route: 405 allowed: GET, HEAD",
                                          "  GET /a: the method is PUT, not GET"]


@pytest.mark.parametrize("arguments, expected", [
    (["GET", "shop.test/users"], "is neither a URL nor a path"),
    (["GET", "ftp://shop.test/"], "is neither a URL nor a path"),
    (["GET", "/", "-H", "X-Beta"], "has no colon"),
    (["GET", "/", "-H", "X: 1\r\nY: 2"], "a line break is no part of a request"),
    (["GET"], "Missing argument 'URL'"),
])
def test_explain_refuses_what_is_no_request(command, arguments, expected):
    result = command("explain", *arguments)
    assert expected in result.stderr
    assert result.exit_code == 2


def test_what_would_command_a_terminal_is_shown_by_its_code(command):
    assert printable("a\x1b[31m\udcffé\nb\r") == "a\\x1b[31m\\udcffé\nb\\r"
    assert 'id = "\\udcff"' in command("explain", "GET", "http://shop.test/users/%FF", "-H", "X-Beta: 1").stdout


# -- run, nginx, demo

@pytest.mark.parametrize("arguments, expected", [
    ([], []),
    (["--bind", "127.0.0.1:81", "-b", "unix:/run/g.sock", "--workers", "3"],
     ["--bind", "127.0.0.1:81", "--bind", "unix:/run/g.sock", "--workers", "3"]),
    (["--log-level", "debug", "--workers", "2"], ["--workers", "2", "--log-level", "debug"]),
])
def test_run_becomes_gunicorn(command, monkeypatch, arguments, expected):
    started = []
    monkeypatch.setattr(os, "execvp", lambda program, command: started.append((program, command)))
    monkeypatch.setenv("GATEWAY_CONFIG", "")
    assert command("run", *arguments).exit_code == 0
    packaged = str(ROOT / "gateway" / "gunicorn_conf.py")
    assert started == [(sys.executable, [sys.executable, "-m", "gunicorn", "-c", packaged, *expected, "gateway.app:create_app()"])]
    assert os.environ["GATEWAY_CONFIG"] == os.path.abspath("gateway.toml")


@pytest.mark.parametrize("own, options, taken", [
    (None, (), "packaged"),
    ("", (), "packaged"),
    ("worker_class = 'gthread'\nbind = '0.0.0.0:80'\n", (), "packaged"),                 # the old application's
    ("from gateway.gunicorn_conf import *  # noqa\n", (), "own"),
    ("import gateway.gunicorn_conf\n", (), "own"),
    ("worker_class = 'gthread'\n", ("--settings", "gunicorn.conf.py"), "named"),
    (None, ("--settings", "gunicorn.conf.py"), "refused")])
def test_run_says_which_settings_of_gunicorn_it_takes(command, monkeypatch, own, options, taken):
    """A gunicorn.conf.py that lies in the current directory may be of the application that the gateway stands in front of."""
    started = []
    monkeypatch.setattr(os, "execvp", lambda program, command: started.append(command))
    if own is not None:
        write(own, "gunicorn.conf.py")
    result = command("run", *options)
    if taken == "refused":
        assert result.exit_code == 2 and started == []
        return
    packaged = str(ROOT / "gateway" / "gunicorn_conf.py")
    conf = {"packaged": packaged, "own": os.path.abspath("gunicorn.conf.py"), "named": "gunicorn.conf.py"}[taken]
    assert started[0][3:5] == ["-c", conf]
    assert f"settings of Gunicorn: {conf}" in result.stderr
    assert ("may be of another application" in result.stderr) is (own is not None and taken == "packaged")


def test_run_refuses_no_workers(command):
    assert command("run", "--workers", "0").exit_code == 2


def test_run_serves(command, tmp_path):
    write('[[routes]]\npath = "/hello"\nrespond = { text = "served" }', "served.toml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open("run.log", "wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "gateway.cli", "run", "-c", "served.toml", "-b", f"127.0.0.1:{port}"],
                                   stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until(lambda: process.poll() is not None or connects(port), Path("run.log").read_text)
        assert answer(port, "/hello") == (200, b"served"), Path("run.log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, Path("run.log").read_text()


def answer(port, path):
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_nginx(command):
    result = command("nginx", "--listen", "127.0.0.1:7000", "--instance", "127.0.0.1:7001", "--instance", "127.0.0.1:7002")
    assert "listen 127.0.0.1:7000" in result.stdout
    assert "server 127.0.0.1:7001" in result.stdout and "server 127.0.0.1:7002" in result.stdout
    assert "events {" in result.stdout
    assert "events {" not in command("nginx", "--include").stdout
    assert "/run/demo/" in command("nginx", "--prefix", "/run/demo").stdout


def test_nginx_refuses_an_address_that_is_none(command):
    result = command("nginx", "--listen", "a;b")
    assert (result.stdout, result.exit_code) == ("", 2)
    assert "a;b" in result.stderr


def test_demo_passes_its_options_on(command, monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "run", lambda port, nginx: asked.append((port, nginx)) or 1)
    assert command("demo").exit_code == 1
    command("demo", "--port", "18000", "--no-nginx")
    assert asked == [(8000, True), (18000, False)]


def test_the_version(command):
    assert command("--version").stdout == f"wicketgate, version 0.1.0 ({RUNNING.name} build, Python {platform.python_version()})\n"


def test_the_version_says_why_what_was_compiled_does_not_run(command):
    done = command("--version", obj=Build("pure", "gateway/message.py changed since being compiled: the sources run"))
    assert done.exit_code == 0 and done.stdout.splitlines() == [
        f"wicketgate, version 0.1.0 (pure build, Python {platform.python_version()})",
        "  note: gateway/message.py changed since being compiled: the sources run"]


def test_check_says_why_what_was_compiled_does_not_run(command):
    done = command("check", obj=Build("pure", "gateway/message.py changed since being compiled: the sources run"))
    assert done.exit_code == 0 and "  note: gateway/message.py changed since being compiled" in done.stdout


def test_help_lists_every_command(command):
    text = command("--help").stdout
    assert all(name in text for name in ("check", "schema", "routes", "explain", "run", "nginx", "demo"))
