"""The work of a request, counted: a guard that needs no clock and no quiet machine. tests/test_cost.py compares it with RECORDED.

Counted are the calls of functions (Python's and C's) and the lines of Python that a request runs through, in the whole pipeline
with metrics and log, from the request to the body of its answer; without the worker, the loop and what the log does beside the
requests. The upstream is a real one on a TCP socket, answered from the event loop, so that each exchange waits exactly once.

``python -m bench.cost`` prints both; ``--record`` writes the new numbers into this file.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import re  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median_low  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import gevent  # noqa: E402
from greenlet import getcurrent  # noqa: E402

from gateway.configfile.load import load_text  # noqa: E402
from gateway.message import Request, Response  # noqa: E402
from gateway.pipeline import Pipeline  # noqa: E402
from gateway.telemetry.log import RequestLog  # noqa: E402
from gateway.telemetry.metrics import Registry  # noqa: E402

NativeSocket = monkey.get_original("socket", "socket")
WARM, COUNTED = 10, 9                                    # requests before, and those whose median counts
RECORDED_ON = (3, 11)
TOLERANCE = 0.05 if sys.version_info[:2] == RECORDED_ON else 0.2     # more than that above what is recorded is a regression
SLACK = 0.25                                             # more than that below it, and the record guards nothing any more


class Work(NamedTuple):
    calls: int
    lines: int


# Other versions of Python count calls and lines a little differently, hence their tolerance.
RECORDED = {
    "memory": Work(44, 137),
    "hit": Work(60, 198),
    "proxy": Work(138, 450),
    "compose": Work(455, 1269),
}
PATHS = {"memory": "/hello", "hit": "/cached", "proxy": "/json", "compose": "/compose"}
CONFIG = """
[upstreams.api]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/hello"
respond = {{ text = "Hello, world!" }}

[[routes]]
path = "/json"
upstream = "api"

[[routes]]
path = "/compose"
aggregate = {{ user = "api:/user", orders = "api:/orders", team = "api:/team" }}
"""
CACHED = """
[[routes]]
path = "/cached"
upstream = "api"
cache = { ttl = "1h" }
"""
HEADERS = [("Host", "shop.test"), ("User-Agent", "bench/1"), ("Accept", "application/json"), ("Accept-Encoding", "gzip"),
           ("Cookie", "session=1b4f0e9851971998e732078544c96b36"), ("Authorization", "Bearer 1b4f0e9851971998")]
STRANGERS = HEADERS[:4]                                  # nothing of one user: what is stored may be shared
BODY = b'{"id": 7, "items": ["one", "two", "three"]}'
ANSWER = (b"HTTP/1.1 200 OK\r\nServer: raw\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Type: application/json\r\n"
          b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%s" % (len(BODY), BODY))


class RawUpstream:
    """Answers every request on every connection with the same, from the loop's own callbacks: no greenlet runs for it."""

    def __init__(self) -> None:
        self.loop = gevent.get_hub().loop
        self.open: list[tuple[Any, Any]] = []
        listener = NativeSocket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        self.port: int = listener.getsockname()[1]
        self._watch(listener, lambda: self._watch(listener.accept()[0], self._answer))

    def _watch(self, sock: Any, ready: Callable[..., None]) -> None:
        sock.setblocking(False)
        watcher = self.loop.io(sock.fileno(), 1)
        self.open.append((sock, watcher))
        if ready == self._answer:
            watcher.start(ready, sock, watcher)
        else:
            watcher.start(ready)

    def _answer(self, sock: Any, watcher: Any) -> None:
        if sock.recv(65536):
            sock.sendall(ANSWER)
        else:
            watcher.stop()

    def close(self) -> None:
        for sock, watcher in self.open:
            watcher.stop()
            watcher.close()
            sock.close()


class Counter:
    """Counts in the greenlet that asks and in those it starts, not in the loop and not in ``others``."""

    def __init__(self, others: set[Any]) -> None:
        self.others = others
        self.count = 0

    def calls(self, action: Callable[[], object]) -> int:
        self.count = 0
        sys.setprofile(self._profile)
        try:
            action()
        finally:
            sys.setprofile(None)
        return self.count

    def lines(self, action: Callable[[], object]) -> int:
        self.count = 0
        before = sys.gettrace()                          # a debugger's, or that of coverage
        sys.settrace(self._trace)
        try:
            action()
        finally:
            sys.settrace(before)
        return self.count

    def _profile(self, frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call") and getcurrent() not in self.others:
            self.count += 1

    def _trace(self, frame: object, event: str, argument: object) -> Any:
        if event == "line" and getcurrent() not in self.others:
            self.count += 1
        return self._trace


@contextmanager
def running(more: str = "") -> Iterator[tuple[Pipeline, set[Any]]]:
    """A pipeline, with ``more`` routes, that has served some requests, and the greenlets that are there beside them."""
    others: set[Any] = {gevent.get_hub()}
    upstream = RawUpstream()
    registry = Registry()
    with tempfile.TemporaryDirectory() as place:
        log = RequestLog(str(Path(place, "requests.log")), registry.counter("dropped", "Lines that were lost."))
        pipeline = Pipeline(load_text(CONFIG.format(port=upstream.port) + more, {}), view=no_view, log=log, registry=registry)
        gevent.Greenlet.add_spawn_callback(others.add)
        try:
            log.start()
        finally:
            gevent.Greenlet.remove_spawn_callback(others.add)
        try:
            yield pipeline, others
        finally:
            log.stop()
            pipeline.close()
            upstream.close()


def no_view(request: Request) -> Response:
    raise AssertionError(f"{request!r} is for no view")


def ask(pipeline: Pipeline, path: str) -> bytes:
    """One request, to the last byte of its answer."""
    headers = STRANGERS if path == PATHS["hit"] else HEADERS
    response = pipeline.handle(Request("GET", path, list(headers), host="shop.test", peer="127.0.0.1"))
    body = response.read(1 << 20)
    if response.status != 200:
        raise AssertionError(f"{path} answered {response.status}: {body!r}")
    return body


def work(case: str) -> Work:
    """What one request costs: the median of some, after some that warm caches and pools."""
    with running(CACHED if case == "hit" else "") as (pipeline, others):
        def action() -> bytes:
            return ask(pipeline, PATHS[case])

        for _ in range(WARM):
            action()
        counter = Counter(others)
        return Work(median_low([counter.calls(action) for _ in range(COUNTED)]),
                    median_low([counter.lines(action) for _ in range(COUNTED)]))


def judged(case: str, found: Work, recorded: Work) -> str:
    """What is wrong, as a sentence that says what to do; empty when nothing is."""
    advice = "If that is meant, run `python -m bench.cost --record` and say in the commit what the work buys."
    for kind, now, before in zip(Work._fields, found, recorded):
        if now > before * (1 + TOLERANCE):
            return f"a request of the case {case!r} takes {now} {kind}, recorded are {before}: {now / before - 1:+.0%}. {advice}"
        if now < before * (1 - SLACK):
            return (f"a request of the case {case!r} takes only {now} {kind}, recorded are {before}: "
                    f"run `python -m bench.cost --record`, so that it stays that way.")
    return ""


def record(found: dict[str, Work]) -> None:
    path = Path(__file__)
    text = path.read_text()
    for case, each in found.items():
        text = re.sub(rf'("{case}": Work)\(\d+, \d+\)', rf"\1({each.calls}, {each.lines})", text)
    path.write_text(text)


def main() -> None:
    found = {case: work(case) for case in PATHS}
    for case, each in found.items():
        print(f"{case:8} {each.calls:5} calls {each.lines:5} lines   recorded {RECORDED[case].calls:5} {RECORDED[case].lines:5}")
    if "--record" in sys.argv[1:]:
        record(found)


if __name__ == "__main__":
    main()
