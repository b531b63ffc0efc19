"""The servers that are measured: the gateway as an operator starts it, and its peers. One table, ``SERVERS``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .machine import ROOT, Cores, Process, command, cores, free_port
from .peers.payload import HELLO
from .upstream import Upstream

PEERS = Path(__file__).parent / "peers"


class Start(NamedTuple):
    """How a server is started: its command, and what it needs in its environment."""

    arguments: Sequence[str]
    environ: Mapping[str, str]


class Server(NamedTuple):
    """``start(place, port, upstream)`` writes configuration into ``place`` and says how it is started."""

    name: str
    title: str
    start: Callable[[Path, int, Upstream], Start]
    ready: str = "/hello"
    cores: int = 1


class Running(NamedTuple):
    """A server that answers. ``started`` is how many seconds that took."""

    server: Server
    process: Process
    port: int
    started: float
    place: Path
    start: Start
    upstream: Upstream

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.__exit__(*exception)


def run(server: Server, place: Path, upstream: Upstream) -> Running:
    """Start a server on its core and wait until it answers. Raises Failed."""
    place.mkdir(parents=True)
    port = free_port()
    start = server.start(place, port, upstream)
    process = Process(start.arguments, where(server, cores()), place / "output", start.environ)
    try:
        return Running(server, process, port, process.wait_until_it_answers(port, server.ready), place, start, upstream)
    except BaseException:
        process.__exit__()
        raise


def where(server: Server, place: Cores) -> list[int]:
    return [place.server, place.load][:server.cores]


def shown(running: Running) -> str:
    """Its command line and environment, for people."""
    start = running.start
    words = [Path(start.arguments[0]).name, *start.arguments[1:]]
    line = " ".join([*(f"{name}={value}" for name, value in start.environ.items() if name != "PYTHONPATH"), shlex.join(words)])
    for number, name in ((running.port, "PORT"), (running.upstream.port, "UPSTREAM")):
        line = line.replace(str(number), name)
    return line.replace(str(running.place), "PLACE")


# The gateway

CONFIG = """
[gateway]
views = ["bench.peers.views"]

[upstreams.api]
instances = [{url}]

[upstreams.hanging]
instances = [{hanging}]

[[routes]]
path = "/hello"
respond = {{ text = {hello} }}

[[routes]]
path = "/compose"
[routes.aggregate]
user = "api:/user"
orders = "api:/orders"
team = "api:/team"

[[routes]]
path = "/cached/*"
upstream = "api"
strip_prefix = "/cached"
cache = {{ ttl = "1h" }}

[[routes]]
path = "/hang"
upstream = "hanging"
timeout = "5m"

[[routes]]
path = "/*"
upstream = "api"
"""
MANY = """
[[routes]]
path = "/service-{n}/orders/{{id:int}}"
upstream = "api"
"""


def gateway(workers: int = 1, routes: int = 0, build: str = "pure") -> Callable[[Path, int, Upstream], Start]:
    """As docs/operating.md has it, with metrics, request ids, the admin listener, and the JSON log in a file."""
    def start(place: Path, port: int, upstream: Upstream) -> Start:
        text = CONFIG.format(url=json.dumps(upstream.url), hanging=json.dumps(f"http://127.0.0.1:{upstream.hanging_port}"),
                             hello=json.dumps(HELLO))
        (place / "gateway.toml").write_text(text + "".join(MANY.format(n=n) for n in range(routes)))
        return Start([command("gunicorn"), "-c", "gunicorn.conf.py", "wsgi:application"], {
            "GATEWAY_CONFIG": str(place / "gateway.toml"), "GATEWAY_BIND": f"127.0.0.1:{port}", "GATEWAY_WORKERS": str(workers),
            "GATEWAY_LOG": str(place / "requests.log"), "GATEWAY_ADMIN": f"127.0.0.1:{free_port()}",
            "GATEWAY_RUN_DIR": str(place), "GATEWAY_BUILD": build, "BENCH_UPSTREAM": upstream.url})
    return start


# Its peers

def python_peer(*arguments: str) -> Callable[[Path, int, Upstream], Start]:
    """A command of the environment; PORT in it is the port."""
    def start(place: Path, port: int, upstream: Upstream) -> Start:
        return Start([command(arguments[0]), *(each.replace("PORT", str(port)) for each in arguments[1:])],
                     {"BENCH_UPSTREAM": upstream.url, "PYTHONPATH": str(ROOT)})
    return start


def flask_peer(*options: str) -> Callable[[Path, int, Upstream], Start]:
    return python_peer("gunicorn", "--bind", "127.0.0.1:PORT", "--config", "/dev/null", *options, "bench.peers.flask_app:app")


def filled_in(template: str, place: Path, port: int, upstream: Upstream) -> str:
    """Write a peer's configuration with its names filled in, and return its path."""
    text = (PEERS / template).read_text()
    for name, value in (("UPSTREAM_HOST", "127.0.0.1"), ("UPSTREAM_PORT", upstream.port),
                        ("UPSTREAM", f"127.0.0.1:{upstream.port}"), ("PORT", port), ("PLACE", place), ("HELLO", HELLO)):
        text = text.replace(name, str(value))
    written = place / template
    written.write_text(text)
    place.chmod(0o755)
    return str(written)


def nginx(place: Path, port: int, upstream: Upstream) -> Start:
    return Start([command("nginx"), "-c", filled_in("nginx.conf", place, port, upstream), "-p", str(place)], {})


def envoy(place: Path, port: int, upstream: Upstream) -> Start:
    return Start([command("envoy"), "-c", filled_in("envoy.yaml", place, port, upstream), "--concurrency", "1",
                  "--disable-hot-restart", "--log-level", "warning"], {})


SERVERS = {server.name: server for server in (
    Server("gateway", "Wicketgate", gateway()),
    Server("gateway-compiled", "Wicketgate, compiled", gateway(build="compiled")),
    Server("aiohttp", "aiohttp", python_peer("python", "-m", "bench.peers.aiohttp_app", "PORT")),
    Server("starlette", "Starlette, aiohttp on uvicorn",
           python_peer("uvicorn", "--port", "PORT", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning",
                       "bench.peers.starlette_app:app")),
    Server("quart", "Quart, aiohttp on hypercorn",
           python_peer("hypercorn", "--bind", "127.0.0.1:PORT", "--worker-class", "uvloop", "bench.peers.quart_app:app")),
    Server("flask-gevent", "Flask, requests on Gunicorn gevent", flask_peer("--worker-class", "gevent")),
    Server("flask-gthread", "Flask, requests on Gunicorn gthread", flask_peer("--worker-class", "gthread", "--threads", "64")),
    Server("flask-sync", "Flask, requests on Gunicorn sync", flask_peer()),
    Server("nginx", "nginx", nginx),
    Server("envoy", "Envoy", envoy),
    # The gateway once more, in other shapes
    Server("gateway-2-workers", "Wicketgate, two workers on two cores", gateway(workers=2), cores=2),
    Server("gateway-10-routes", "Wicketgate, 10 routes", gateway(routes=10)),
    Server("gateway-10000-routes", "Wicketgate, 10,000 routes", gateway(routes=10_000)),
)}
