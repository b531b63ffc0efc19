"""nginx in front of three instances under constant load: workers and instances die and are renewed, and no client notices."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
from collections import Counter

import gevent
import pytest
from running import Recorder, Running, connects, free_port

from gateway.config import Config
from gateway.nginx.configuration import render
from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed

CONFIG = """
[gateway]
trust = ["127.0.0.1/32"]
timeout = "20s"
[upstreams.legacy]
instances = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/*"
upstream = "legacy"
"""


class Load:
    """Clients that ask without a pause until told to stop: GETs must succeed, POSTs carry a number of their own."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.port, self.running, self.numbers = port, True, iter(range(1_000_000))
        self.answers: Counter[tuple[str, object]] = Counter()
        self.greenlets = [gevent.spawn(self._ask, "GET" if number % 4 else "POST") for number in range(clients)]

    def _ask(self, method: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while self.running:
            try:
                body = b"%d" % next(self.numbers) if method == "POST" else None
                connection.request(method, "/x", body=body)
                response = connection.getresponse()
                response.read()
                outcome: object = response.status
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            self.answers[method, outcome] += 1
            gevent.sleep(0.005)
        connection.close()

    def more(self, requests: int) -> None:
        """Wait until this many more GETs were answered."""
        goal = self.answers["GET", 200] + requests
        until(lambda: self.answers["GET", 200] >= goal, lambda: f"{goal} answers: {self.answers}")

    def stop(self) -> None:
        self.running = False
        gevent.joinall(self.greenlets, timeout=30)


@pytest.fixture
def cluster(require, serve, tmp_path):
    require("nginx")
    recorder = Recorder()
    port = free_port()
    upstream = serve(recorder)
    instances = [Running(tmp_path / str(number), CONFIG.format(port=upstream)) for number in range(3)]
    config = Config.model_validate({"nginx": {"listen": f"127.0.0.1:{port}",
                                              "instances": [f"127.0.0.1:{running.port}" for running in instances]}})
    place = tmp_path / "nginx"
    place.mkdir()
    (place / "nginx.conf").write_text(render(config, prefix=str(place)))
    nginx = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(place), "-c", str(place / "nginx.conf"),
                              "-e", str(place / "error.log"), "-g", "daemon off;"])
    until(lambda: connects(port), "nginx listens")
    load = Load(port)
    yield recorder, instances, load
    load.stop()
    nginx.send_signal(signal.SIGQUIT)
    nginx.wait(60)
    for running in instances:
        running.stop()


def verdict(load: Load, recorder: Recorder) -> None:
    """Every GET was answered with 200, and no POST arrived twice."""
    load.stop()
    bad = {key: count for key, count in load.answers.items() if key[0] == "GET" and key[1] != 200}
    assert not bad, load.answers
    posts = Counter(body for head, body in zip(recorder.heads, recorder.bodies) if head.startswith(b"POST"))
    assert max(posts.values()) == 1
    assert load.answers["POST", 200] > 0 and load.answers["GET", 200] > 100


def test_a_killed_worker_goes_unnoticed(cluster):
    recorder, instances, load = cluster
    load.more(50)
    for running in instances[:2]:
        os.kill(running.workers()[0], signal.SIGKILL)
        load.more(100)
    verdict(load, recorder)


def test_a_killed_instance_goes_unnoticed_and_comes_back(cluster):
    recorder, instances, load = cluster
    load.more(50)
    victim = instances[1]
    for pid in [victim.process.pid, *victim.workers()]:
        os.kill(pid, signal.SIGKILL)
    victim.process.wait()
    load.more(100)
    victim.start()
    load.more(100)
    verdict(load, recorder)


def test_renewing_all_goes_unnoticed(cluster):
    recorder, instances, load = cluster
    load.more(50)
    before = [running.workers() for running in instances]
    for running in instances:
        running.signal(signal.SIGHUP)
    load.more(50)
    until(lambda: not any(set(running.workers()) & set(old) for running, old in zip(instances, before)))
    load.more(100)
    verdict(load, recorder)
