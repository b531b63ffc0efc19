"""What the storage of the cache costs, in time and in memory: ``python bench/cache_cost.py``.

Microseconds of single operations, the best of some rounds; bytes of memory for each byte stored; and, where redis-server is
installed, a hit from Redis over loopback at 2,000 a second from one process (RATE changes it), by many greenlets as in a worker.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402
from collections.abc import Callable  # noqa: E402

import gevent  # noqa: E402
from gevent import socket  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from gateway.cache.entry import Entry, Variants  # noqa: E402
from gateway.cache.storage import codec as format  # noqa: E402
from gateway.cache.storage.memory import MemoryTier  # noqa: E402
from gateway.cache.storage.store import HttpStore  # noqa: E402
from gateway.config import Config  # noqa: E402
from gateway.message import Request, Response  # noqa: E402
from gateway.pipeline import Pipeline  # noqa: E402
from gateway.telemetry.log import RequestLog  # noqa: E402
from gateway.telemetry.metrics import Registry  # noqa: E402

ROUNDS, CALLS = 7, 20_000
RATE, SECONDS, GREENLETS = int(os.environ.get("RATE", "2000")), 5, 50


def variants(number: int = 0, size: int = 1000) -> Variants:
    """One answer with ten header fields, as an upstream sends them: its texts are its own."""
    now = time.time()
    headers = [("".join(name), "".join(value)) for name, value in (
        ("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "public, max-age=60"), ("Server", "Apache"),
        ("Vary", "Accept-Encoding"), ("ETag", f'"{number:032x}"'), ("Date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"), ("Content-Length", str(size)),
        ("X-Content-Type-Options", "nosniff"), ("Surrogate-Key", f"product-{number} catalog"))]
    return Variants([Entry(200, "OK", headers, bytes(size), request_time=now, response_time=now, born=now, expires=now + 1000,
                           stale_while_revalidate=now + 1000, stale_if_error=now + 1000, url=f"https://shop.test/{number}",
                           tags=frozenset({f"product-{number}", "catalog"}), stored_at=now)])


def micros(operation: Callable[[int], object], calls: int = CALLS) -> str:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(calls):
            operation(number)
        best = min(best, time.perf_counter() - began)
    return f"{best / calls * 1e6:.2f}"


def operations() -> Table:
    store, full = HttpStore(MemoryTier(1 << 28)), HttpStore(MemoryTier(1 << 20))
    answers = [variants(number) for number in range(1000)]
    for number, each in enumerate(answers):
        store.put(f"k{number}", each, 60, time.time())
    tagged = HttpStore(MemoryTier(1 << 28))
    tagged.put("k", answers[0], 60, time.time())
    for number in range(1000):
        tagged.purger.purge(prefix=f"https://other.test/{'x' * (number % 30)}")

    def held_against_purges(number: int) -> None:
        tagged.marks.number += 1
        tagged.get("k")

    keys, large = [f"k{number}" for number in range(1000)], variants(size=50_000)
    record, text = format.encode("k", answers[0]), format.encode("k", large)
    table = Table("operation", "us", title="Storage, an answer of 1 KB with ten header fields")
    table.add_row("hit in memory", micros(lambda number: store.get(keys[number % 1000])))
    table.add_row("miss, memory only", micros(lambda number: store.get("nothing")))
    table.add_row("first hit after a purge, 1000 purges known", micros(held_against_purges, 2000))
    table.add_row("put", micros(lambda number: store.put(keys[number % 1000], answers[number % 1000], 60, 0.0)))
    table.add_row("put that makes room", micros(lambda number: full.put(f"n{number}", answers[number % 1000], 60, 0.0)))
    table.add_row("purge of a tag", micros(lambda number: store.purger.purge(tag=f"t{number % 100}")))
    table.add_row("write down, 1 KB", micros(lambda number: format.encode("k", answers[0]), 2000))
    table.add_row("read, 1 KB", micros(lambda number: format.decode("k", record), 2000))
    table.add_row("write down, 50 KB", micros(lambda number: format.encode("k", large), 2000))
    table.add_row("read, 50 KB", micros(lambda number: format.decode("k", text), 2000))
    return table


def pipeline_hit() -> Table:
    """The whole pipeline without and with a cache that hits, in front of an answer from memory."""
    def pipeline(**cache: object) -> Pipeline:
        config = Config.model_validate({"routes": [{"path": "/*", "respond": {"text": "x" * 1000, "headers": {
            "Cache-Control": "max-age=600"}}, **cache}]})
        return Pipeline(config, view=lambda request: Response(500, []), log=RequestLog("off"), registry=Registry())

    def ask(handle: Callable[[Request], Response]) -> Callable[[int], object]:
        headers = [("User-Agent", "bench"), ("Accept", "*/*")]
        return lambda number: handle(Request("GET", "/a", headers, host="shop.test"))

    table = Table("one request through the pipeline", "us")
    table.add_row("bare", micros(ask(pipeline().handle)))
    table.add_row("a hit", micros(ask(pipeline(cache={}).handle)))
    return table


def memory() -> Table:
    table = Table("body", "entries", "bytes stored", "bytes taken", "taken : stored", "allowed (1.3 x and 600 each)", "believed",
                  title="Memory, ten header fields and two tags each")
    for size in (500, 1000, 4000, 20_000, 100_000):
        count = max(200, 5_000_000 // size)
        tracemalloc.start()
        store, stored = HttpStore(MemoryTier(1 << 32)), 0
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            each = variants(number, size)
            [entry] = each.entries
            stored += size + len(entry.url) + sum(map(len, entry.tags))
            stored += sum(len(name) + len(value) for name, value in entry.headers)
            store.put(f"https://shop.test/{number}", each, 60, time.time())
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        table.add_row(f"{size:,}", f"{count:,}", f"{stored:,}", f"{taken:,}", f"{taken / stored:.2f}",
                      f"{1.3 * stored + 600 * count:,.0f}", f"{store.memory.bytes:,}")
    return table


def redis_hits() -> Table:
    """Hits from Redis at a steady rate, and a bare PING over a socket of each greenlet at the same: what the machine gives."""
    from gateway.cache.storage.redis_tier import RedisTier
    from gateway.remote.redis_client import RedisClient
    place = tempfile.mkdtemp()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--dir", place], stdout=subprocess.DEVNULL)
    client = RedisClient(f"redis://127.0.0.1:{port}/0", timeout=1.0)
    tier = RedisTier(client)
    table = Table("body", "asked/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU of this process",
                  title=f"A hit from Redis on loopback, read and taken apart, {RATE:,}/s for {SECONDS} s")

    def row(name: str, times: list[float]) -> None:
        table.add_row(name, f"{len(times) / SECONDS:,.0f}", *(
            f"{times[int(len(times) * part)] * 1000:.2f}" for part in (0.5, 0.99, 0.999)), f"{steadily.cpu:.0%}")

    try:
        store = HttpStore(MemoryTier(0), [tier])             # no memory: every get asks Redis
        while not client.ask("PING"):
            time.sleep(0.05)
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(GREENLETS)]

        def ping(number: int) -> bytes:
            sockets[number % GREENLETS].sendall(b"PING\r\n")
            return sockets[number % GREENLETS].recv(100)

        row("bare PING", sorted(steadily(ping)))
        for each in sockets:
            each.close()
        for size in (1000, 10_000):
            for number in range(100):
                store.put(f"k{size}-{number}", variants(number, size), 600, time.time())
            assert store.flush()
            row(f"{size:,}", sorted(steadily(lambda number: store.get(f"k{size}-{number % 100}"))))
    finally:
        tier.close()
        server.kill()
        server.wait()
        shutil.rmtree(place)
    return table


def steadily(operation: Callable[[int], object]) -> list[float]:
    """Seconds that each call took, RATE calls a second in all."""
    times: list[float] = []
    began, cpu = time.perf_counter() + 0.1, time.process_time()

    def work(first: int) -> None:
        for number in range(first, RATE * SECONDS, GREENLETS):
            due = began + number / RATE
            if (left := due - time.perf_counter()) > 0:
                gevent.sleep(left)
            else:
                gevent.sleep(0)
            begun = time.perf_counter()
            assert operation(number) is not None
            times.append(time.perf_counter() - begun)

    gevent.joinall([gevent.spawn(work, first) for first in range(GREENLETS)], raise_error=True)
    steadily.cpu = (time.process_time() - cpu) / (time.perf_counter() - began)       # type: ignore[attr-defined]
    return times


def main() -> None:
    console = Console(width=140)
    console.print(operations())
    console.print(pipeline_hit())
    console.print(memory())
    if shutil.which("redis-server"):
        console.print(redis_hits())
    else:
        console.print("redis-server is not installed: its row is left out")


if __name__ == "__main__":
    main()
