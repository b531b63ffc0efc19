"""Each way to wait that code of users has, twenty at once: ``python -m bench.execution`` prints the table of docs/execution.md.

One worker, twenty requests of half a second each; a row has the seconds until the last answer, the best of three times. Needs
what the tests need.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from tests.e2e.running import Running, ask  # noqa: E402

AT_ONCE = 20
TIMES = 3
SECONDS = 0.5
HEAD = '''
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import requests
from asgiref.sync import async_to_sync
from flask import Blueprint

from gateway import run_async, run_sync

views = Blueprint("views", __name__)
clients = {}

def session():
    return clients.get("aiohttp") or clients.setdefault("aiohttp", aiohttp.ClientSession())

def client():
    return clients.get("httpx") or clients.setdefault("httpx", httpx.AsyncClient(trust_env=False))
'''
SYNC = ["time.sleep(0.5)", "requests.get(URL)", "run_async(asyncio.sleep(0.5))", "asyncio.run(asyncio.sleep(0.5))",
        "async_to_sync(asyncio.sleep)(0.5)", "ThreadPoolExecutor().submit(time.sleep, 0.5).result()"]
ASYNC = ["await asyncio.sleep(0.5)", "await session().get(URL)", "await client().get(URL)",
         "await asyncio.to_thread(time.sleep, 0.5)", "await run_sync(requests.get, URL)",
         "await (await asyncio.create_subprocess_exec('sleep', '0.5')).wait()", "requests.get(URL)"]


def answer(environ: object, start_response: object) -> list[bytes]:
    gevent.sleep(SECONDS)
    start_response("200 OK", [("Content-Length", "1")])  # type: ignore[operator]
    return [b"x"]


def main() -> None:
    upstream = WSGIServer(("127.0.0.1", 0), answer, log=None)
    upstream.start()
    cases = [*(("def", code) for code in SYNC), *(("async def", code) for code in ASYNC)]
    source = HEAD + f'URL = "http://127.0.0.1:{upstream.server_port}/"\n'
    for number, (kind, code) in enumerate(cases):
        source += f'\n@views.get("/{number}")\n{kind} view_{number}():\n    {code}\n    return "done"\n'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "views.py").write_text(source)
        gateway = Running(Path(folder), '[gateway]\nviews = ["views"]\ntimeout = "60s"\n')
        try:
            print("| view | code | seconds |\n|---|---|---:|")
            for number, (kind, code) in enumerate(cases):
                seconds = min(measure(gateway.port, number) for _ in range(TIMES))
                print(f"| `{kind}` | `{code}` | {seconds:.2f} |", flush=True)
        finally:
            gateway.stop()


def measure(port: int, number: int) -> float:
    request = b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number
    began = time.perf_counter()
    statuses = [each.get()[0] for each in [gevent.spawn(ask, port, request) for _ in range(AT_ONCE)]]
    assert statuses == [200] * AT_ONCE, statuses
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
