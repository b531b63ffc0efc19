"""Which modules a request runs through: the share of each in the calls of the gateway's own functions. setup.py compiles those
that matter; tests/test_hot_modules.py compares its list with what is counted here.

A real instance, one worker of the pure build, counts with ``sys.setprofile`` from the first byte of a request to the last of its
answer, in every greenlet and in the loop's own callbacks. ``python -m bench.hot`` prints the table.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections import Counter  # noqa: E402
from http.client import HTTPConnection  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import gevent  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from bench.cost import BODY  # noqa: E402
from tests.e2e.plain import GATEWAY, Plain  # noqa: E402
from tests.waiting import until  # noqa: E402

WARM, COUNTED = 5, 50                                    # requests before, and those that are counted
PIECES = [bytes(40_000)] * 3                             # of a streamed body
ETAG = '"1b4f0e98"'
FORWARDED = {"X-Forwarded-For": "192.0.2.7, 192.0.2.8", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.test"}


class Case(NamedTuple):
    """One kind of request. ``path`` may have a number in it, another each time; ``body`` in pieces is sent chunked."""

    path: str
    method: str = "GET"
    body: bytes | list[bytes] | None = None
    headers: dict[str, str] = {}
    status: int = 200


CASES = {
    "memory": Case("/memory"),
    "proxy": Case("/proxy"),
    "post": Case("/proxy", "POST", BODY),
    "behind nginx": Case("/proxy", headers=FORWARDED),
    "rewritten": Case("/shop/item/7", headers={"Cookie": "session=1b4f0e98"}),
    "upload": Case("/proxy", "POST", PIECES),
    "download": Case("/download"),
    "miss": Case("/cached/{number}"),
    "large miss": Case("/cached/{number}/download"),
    "hit": Case("/cached/hit"),
    "not modified": Case("/cached/hit", headers={"If-None-Match": ETAG}, status=304),
    "range": Case("/cached/hit", headers={"Range": "bytes=0-9"}, status=206),
    "compose": Case("/compose"),
    "view": Case("/view"),
    "view, requests": Case("/view-with-requests"),
    "view, async": Case("/async-view"),
    "not found": Case("/nothing", status=404),
}
CONFIG = """
[gateway]
views = ["views"]
trust = ["127.0.0.1/32"]

[upstreams.api]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/memory"
respond = {{ text = "Hello, world!" }}

[[routes]]
path = "/proxy"
upstream = "api"

[[routes]]
path = "/download"
upstream = "api"

[[routes]]
path = "/shop/item/{{id:int}}"
upstream = "api"
strip_prefix = "/shop"
rewrite_location = true
rewrite_cookies = true
request_headers = {{ set = {{ X-Shop = "one" }}, remove = ["X-Debug"] }}
response_headers = {{ set = {{ X-Frame-Options = "DENY" }} }}

[[routes]]
path = "/cached/*"
upstream = "api"
cache = {{ ttl = "1h" }}

[[routes]]
path = "/compose"
aggregate = {{ user = "api:/user", orders = "api:/orders", team = "api:/team" }}
"""
VIEWS = """
import requests
from flask import Blueprint
blueprint = Blueprint("hot", __name__)

@blueprint.get("/view")
def view():
    return "Hello, world!"

@blueprint.get("/async-view")
async def async_view():
    return "Hello, world!"

@blueprint.get("/view-with-requests")
def view_with_requests():
    return requests.get("http://api/json").json()
"""
# The worker of a counting instance. ``counts`` of what came since the last reset are written when "write" appears beside it.
CONF = """
from gevent import monkey; monkey.patch_all()
from gateway.gunicorn_conf import *
import gateway.gunicorn_conf
from bench import hot

def post_worker_init(worker):
    gateway.gunicorn_conf.post_worker_init(worker)
    hot.count_calls({place!r})
"""


def count_calls(place: str) -> None:
    """In the worker: count by file from now on. A file "reset" in ``place`` starts anew, "write" asks for the counts."""
    package = str(Path(__file__).parent.parent / "gateway") + "/"
    counts: Counter[str] = Counter()

    def profile(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            counts[frame.f_code.co_filename.removeprefix(package).removesuffix(".py")] += 1

    def serve() -> None:
        while True:
            if Path(place, "reset").exists():
                counts.clear()
                Path(place, "reset").unlink()
            if Path(place, "write").exists():
                Path(place, "counts.part").write_text(json.dumps(counts))
                Path(place, "counts.part").rename(Path(place, "counts"))
                Path(place, "write").unlink()
            gevent.sleep(0.01)

    gevent.spawn(serve)
    sys.setprofile(profile)


def upstream(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers in pieces below ``/download``, else at once; a redirect and a cookie below ``/item``."""
    environ["wsgi.input"].read()
    path = environ["PATH_INFO"]
    fields = [("Content-Type", "application/json"), ("ETag", ETAG)]
    if path.startswith("/item"):
        fields += [("Content-Location", "http://api/item/7"), ("Set-Cookie", "seen=1; Path=/item")]
    if path.endswith("/download"):
        start_response("200 OK", fields)
        return PIECES
    start_response("200 OK", [*fields, ("Content-Length", str(len(BODY)))])
    return [BODY]


class Counting:
    """The counting instance, and its upstream in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream = WSGIServer(("127.0.0.1", 0), upstream, log=None)
        self.upstream.start()
        (folder / "views.py").write_text(VIEWS)
        (folder / "conf.py").write_text(CONF.format(place=str(folder)))
        self.instance = Plain(folder, config=CONFIG.format(port=self.upstream.server_port), application=GATEWAY,
                              conf=str(folder / "conf.py")).started()
        self.number = 0

    def order(self, name: str) -> None:
        (self.folder / name).touch()
        until(lambda: not (self.folder / name).exists(), name)

    def ask(self, case: Case, times: int) -> None:
        connection = HTTPConnection("127.0.0.1", self.instance.port, timeout=60)
        for _ in range(times):
            self.number += 1
            connection.request(case.method, case.path.format(number=self.number), case.body, case.headers,
                               encode_chunked=isinstance(case.body, list))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != case.status:
                raise AssertionError(f"{case.path} answered {answer.status}: {body[:200]!r}")
        connection.close()

    def calls(self, case: Case) -> dict[str, float]:
        """The calls of functions of each module that one request takes."""
        self.ask(case, WARM)
        self.order("reset")
        self.ask(case, COUNTED)
        self.order("write")
        return {name: count / COUNTED for name, count in json.loads((self.folder / "counts").read_text()).items()}

    def stop(self) -> None:
        self.instance.stop()
        self.upstream.stop()


def measure() -> dict[str, dict[str, float]]:
    """Calls by case and module."""
    with tempfile.TemporaryDirectory() as folder:
        counting = Counting(Path(folder))
        try:
            return {name: counting.calls(case) for name, case in CASES.items()}
        finally:
            counting.stop()


def main() -> None:
    found = measure()
    names = sorted({name for calls in found.values() for name in calls},
                   key=lambda name: -max(calls.get(name, 0) / sum(calls.values()) for calls in found.values()))
    print(f"{'calls in one request':28}", *(f"{case:>14}" for case in found))
    for name in names:
        print(f"{name:28}", *(f"{calls.get(name, 0):14.2f}" for calls in found.values()))
    print(f"{'all':28}", *(f"{sum(calls.values()):14.2f}" for calls in found.values()))


if __name__ == "__main__":
    main()
