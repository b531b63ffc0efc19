"""Coroutines in the real server: twenty at once of each kind that people write; deadlines, clients that leave, the worker's end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import gevent
import pytest
from running import Running, ask

from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed      # one gateway for the module
AT_ONCE = 20

VIEWS = '''
import asyncio
import os
import time

import requests
from asgiref.sync import async_to_sync, sync_to_async
from flask import Blueprint, abort, current_app, g, request
from flask.views import MethodView

from gateway import errors, run_async, run_sync
from gateway.tasks import current_request

views = Blueprint("views", __name__)
arrived = {}
notes = []

async def everybody(kind):
    """Waits until twenty are here."""
    arrived[kind] = arrived.get(kind, 0) + 1
    while arrived[kind] % 20:
        await asyncio.sleep(0.001)
        request.path                                     # Flask's request, in a coroutine

@views.before_request
async def before():
    g.before = request.path

@views.after_request
async def after(response):
    response.headers["X-After"] = g.before
    return response

@views.get("/async")
async def plain():
    await everybody("async")
    return {"before": g.before, "app": current_app.name, "left": current_request.get().deadline.left() > 0}

@views.get("/sync")
def sync():
    async def part():
        await everybody("sync")
        return await run_sync(lambda: request.path)
    return run_async(part())

@views.get("/run")
def run():
    asyncio.run(everybody("run"))
    return "run"

@views.get("/asgiref")
def with_asgiref():
    @async_to_sync
    async def part():
        await everybody("asgiref")
        return await sync_to_async(lambda: request.path)()
    return part()

@views.get("/requests")
async def with_requests():
    await everybody("requests")
    return requests.get(request.args["url"]).text

@views.get("/thread")
async def thread():
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(3)))
    await everybody("thread")
    return "thread"

@views.get("/subprocess")
async def process():
    await everybody("subprocess")
    made = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    return (await made.communicate(b"out"))[0]

@views.get("/aiohttp")
async def with_aiohttp():
    import aiohttp
    await everybody("aiohttp")
    async with aiohttp.ClientSession() as session, session.get(request.args["url"]) as answer:
        return await answer.text()

@views.get("/httpx")
async def with_httpx():
    import httpx
    await everybody("httpx")
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(request.args["url"])).text

class Class(MethodView):
    async def get(self):
        await everybody("class")
        return "class"

views.add_url_rule("/class", view_func=Class.as_view("class"))

class Teapot(Exception):
    pass

@views.errorhandler(Teapot)
async def teapot(error):
    return f"handled {error} of {g.before}", 418

@views.get("/fail/<kind>")
async def fail(kind):
    await asyncio.sleep(0)
    if kind == "abort":
        abort(409)
    if kind == "gateway":
        raise errors.UpstreamTimeout("too slow")
    raise {"teapot": Teapot, "value": ValueError}[kind]("the reason")

async def hang(kind):
    try:
        notes.append(f"{kind} began")
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        notes.append(f"{kind} ended")
        print(kind, "ended", flush=True)

@views.get("/hang/<kind>")
async def hanging(kind):
    await hang(kind)

@views.get("/hang-sync/<kind>")
async def hanging_sync(kind):
    def wait():
        try:
            notes.append(f"{kind} began")
            time.sleep(1000)
        finally:
            notes.append(f"{kind} ended")
    await run_sync(wait)

@views.get("/hang-run/<kind>")
def hanging_run(kind):
    asyncio.run(hang(kind))

@views.get("/block/<kind>")
async def blocking(kind):
    try:
        notes.append(f"{kind} began")
        time.sleep(1000)
    finally:
        notes.append(f"{kind} ended")

kept = []

@views.get("/background")
async def background():
    kept.append(asyncio.create_task(hang("background")))
    print("background began", flush=True)
    return str(os.getpid())

@views.get("/notes")
def all_notes():
    return notes
'''
CONFIG = """
[gateway]
views = ["views"]

[[routes]]
path = "/data"
respond = { text = "data" }

[[routes]]
path = "/hang/deadline"
view = true
timeout = "300ms"

[[routes]]
path = "/hang-sync/deadline"
view = true
timeout = "300ms"

[[routes]]
path = "/hang-run/deadline"
view = true
timeout = "300ms"

[[routes]]
path = "/block/deadline"
view = true
timeout = "300ms"
"""


class Stock(Running):
    """The worker with an application that is Flask's alone."""

    def arguments(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "stock:app"]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def get(port: int, target: str) -> tuple[int, dict[str, str], str]:
    status, fields, body = ask(port, b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target.encode())
    return status, dict(fields), body.decode()


def get_at_once(port: int, target: str) -> list[tuple[int, str]]:
    greenlets = [gevent.spawn(get, port, target) for _ in range(AT_ONCE)]
    return [each.get()[::2] for each in greenlets]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    place = tmp_path_factory.mktemp("async")
    (place / "views.py").write_text(VIEWS)
    running = Running(place, CONFIG)
    yield running
    assert running.stop() == 0
    log = running.errors.read_text()
    assert "Task was destroyed" not in log and "never retrieved" not in log and "never awaited" not in log
    assert log.count("background ended") == log.count("background began")


ANSWERS = {
    "/async": '{"app":"gateway","before":"/async","left":true}\n', "/sync": "/sync", "/run": "run", "/asgiref": "/asgiref",
    "/requests": "data", "/thread": "thread", "/subprocess": "out", "/aiohttp": "data", "/httpx": "data", "/class": "class"}


@pytest.mark.parametrize("path", ANSWERS)
def test_twenty_at_once(gateway, path):
    assert get_at_once(gateway.port, f"{path}?url=http://127.0.0.1:{gateway.port}/data") == [(200, ANSWERS[path])] * AT_ONCE


def test_hooks_and_error_handlers_may_be_coroutines(gateway):
    status, fields, body = get(gateway.port, "/fail/teapot")
    assert (status, body, fields["X-After"]) == (418, "handled the reason of /fail/teapot", "/fail/teapot")


@pytest.mark.parametrize("kind, status, code", [
    ("abort", 409, "conflict"), ("gateway", 504, "upstream_timeout"), ("value", 500, "internal_error")])
def test_errors_of_coroutines_are_those_of_views(gateway, kind, status, code):
    answer, _, body = get(gateway.port, f"/fail/{kind}")
    assert (answer, json.loads(body)["code"]) == (status, code)
    if kind == "value":
        log = gateway.errors.read_text()
        assert "ValueError: the reason" in log and "in fail" in log


@pytest.mark.parametrize("path", ["/hang/", "/hang-sync/", "/hang-run/", "/block/"])
def test_the_deadline_ends_a_coroutine_and_its_finally_runs(gateway, path):
    before = json.loads(get(gateway.port, "/notes")[2]).count("deadline ended")
    status, _, body = get(gateway.port, f"{path}deadline")
    assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")
    assert json.loads(get(gateway.port, "/notes")[2]).count("deadline ended") == before + 1


@pytest.mark.parametrize("path", ["/hang/", "/hang-sync/"])
def test_a_client_that_leaves_ends_its_async_view(gateway, path):
    kind = f"client of {path.strip('/')}".replace(" ", "-")
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET %s%s HTTP/1.1\r\nHost: a\r\n\r\n" % (path.encode(), kind.encode()))
        until(lambda: f"{kind} began" in get(gateway.port, "/notes")[2])
    until(lambda: f"{kind} ended" in get(gateway.port, "/notes")[2])
    assert gateway.lines(path=f"{path}{kind}")[0]["flag"] == "DC"


def test_the_end_of_a_worker_cancels_what_still_runs_and_the_next_one_serves(gateway):
    """The next worker is forked from a master that may have loaded more than the first one's."""
    pid = int(get(gateway.port, "/background")[2])
    gateway.signal(signal.SIGHUP)
    until(lambda: pid not in gateway.workers() and gateway.answers())
    assert "background ended" in gateway.errors.read_text()
    assert get_at_once(gateway.port, "/async") == [(200, ANSWERS["/async"])] * AT_ONCE
    [pid] = gateway.workers()                            # and one that dies
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in gateway.workers() and gateway.answers())
    assert get_at_once(gateway.port, "/run") == [(200, "run")] * AT_ONCE
    get(gateway.port, "/background")                     # left for the end of the instance


PLAIN = '''
import sys
from flask import Blueprint

plain = Blueprint("plain", __name__)

@plain.get("/")
def loaded():
    return str("asyncio" in sys.modules)

@plain.get("/async")
async def loaded_now():
    return loaded()
'''


def test_a_worker_loads_asyncio_when_the_first_coroutine_comes(tmp_path):
    (tmp_path / "plain_views.py").write_text(PLAIN)
    running = Running(tmp_path, '[gateway]\nviews = ["plain_views"]\n')
    try:
        assert [get(running.port, path)[2] for path in ("/", "/async", "/")] == ["False", "True", "True"]
    finally:
        assert running.stop() == 0


STOCK = '''
import asyncio
from flask import Flask, request

app = Flask(__name__)
arrived = []

@app.get("/")
async def view():
    arrived.append(1)
    while len(arrived) < 20:
        await asyncio.sleep(0.001)
    return request.path
'''


def test_the_async_views_of_stock_flask_twenty_at_once(tmp_path):
    (tmp_path / "stock.py").write_text(STOCK)
    running = Stock(tmp_path, "")
    try:
        assert get_at_once(running.port, "/") == [(200, "/")] * AT_ONCE
    finally:
        assert running.stop() == 0
    assert "Task was destroyed" not in running.errors.read_text()
