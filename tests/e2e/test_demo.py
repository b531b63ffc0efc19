"""``gateway demo`` as a user runs it: what it prints is true, and nothing is left when it ends."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import ask, field

from gateway.demo.start import Ports, PortsUsed, refuse_used
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = [sys.executable, "-c", "from gateway.cli import main; main(prog_name='gateway')"]


def all_free(ports: Ports) -> bool:
    try:
        refuse_used(ports)
    except PortsUsed:
        return False
    return True


def free_ports() -> Ports:
    """Ports that are all free now."""
    for _ in range(100):
        ports = Ports(random.SystemRandom().randrange(10000, 32000), nginx=True)
        if all_free(ports):
            return ports
    raise AssertionError("no free ports")


class Demo:
    """A running demo. ``text`` is what it had printed when everything answered."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self.ports = free_ports()
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen([*GATEWAY, "demo", "--port", str(self.ports.front), *arguments], cwd=output.parent,
                                            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=file, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL)
        until(lambda: "Ctrl-C" in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, self.text
        self.children = descendants(self.process.pid)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def get(self, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        return ask(self.ports.front, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def demo(tmp_path):
    running: list[Demo] = []

    def start(*arguments: str) -> Demo:
        running.append(Demo(tmp_path / "output", *arguments))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.end(signal.SIGTERM)


def test_with_nginx_everything_it_prints_is_true(demo, require):
    require("nginx")
    shown = demo()
    assert f"nginx on {shown.ports.front}, instances of the gateway on {shown.ports.front + 1}" in shown.text
    urls = re.findall(r"http://127\.0\.0\.1:(\d+)(/[^\s']*)", shown.text)
    assert {int(port) for port, _ in urls} == {shown.ports.front, shown.ports.admins[0]} and len(urls) == 9

    assert b"The old shop" in shown.get("/")[2]
    _, headers, body = shown.get("/echo/a%2Fb//c?q=1+2")
    assert json.loads(body)["line"] == "GET /echo/a%2Fb//c?q=1+2"
    assert json.loads(body)["headers"]["X-Forwarded-For"] == "127.0.0.1, 127.0.0.1"   # the client, nginx
    assert len([value for name, value in headers if name.lower() == "set-cookie"]) == 2

    status, headers, body = shown.get("/api/dashboard/7")
    answer = json.loads(body)
    assert (status, list(answer), len(answer["orders"])) == (200, ["user", "orders", "team", "wish"], 5)
    assert field(headers, "X-Request-Id") and "team_id" not in answer["user"] and set(answer["wish"]) == {"title", "stock"}

    answer = json.loads(shown.get("/views/profile/7")[2])
    assert (answer["user"]["id"], len(answer["orders"])) == (7, 3)
    status, headers, body = shown.get("/stock/desk-001")
    assert (status, json.loads(body)["title"], field(headers, "Cache-Control")) == (200, "Desk no. 1", "max-age=10")
    stored = [field(shown.get("/cached/desk-001")[1], "Cache-Status") for _ in range(3)]      # two instances, a memory each
    assert "fwd=uri-miss" in stored[0] and any("; hit" in each for each in stored)
    assert shown.get("/old-shop/chair")[0] == 410
    status, headers, body = shown.get("/views/profile/0")
    assert (status, field(headers, "Content-Type")) == (404, "application/problem+json")
    assert ask(shown.ports.admins[1], b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[0] == 200

    assert shown.end(signal.SIGINT) == 0
    nothing_left(shown)


def test_without_nginx_one_instance_listens_itself_and_a_lost_child_ends_it(demo):
    shown = demo("--no-nginx")
    assert f"without nginx: one instance of the gateway listens on {shown.ports.front} itself" in shown.text
    assert (shown.get("/api/dashboard/7")[0], shown.get("/views/profile/7")[0]) == (200, 200)
    [service] = [pid for pid in shown.children if parent_of(pid) == shown.process.pid and b":orders(" in command_of(pid)]
    os.kill(service, signal.SIGKILL)
    assert shown.process.wait(60) == 1
    assert "service orders ended (SIGKILL). The last lines of its output:\n" in shown.text and "Booting worker" in shown.text
    nothing_left(shown)


def test_a_demo_that_is_killed_takes_its_children_along(demo):
    shown = demo("--no-nginx")
    assert shown.children
    shown.end(signal.SIGKILL)
    nothing_left(shown)


def test_a_used_port_is_named_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - 11
        result = subprocess.run([*GATEWAY, "demo", "--port", str(port)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                                capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"Port {port + 11} is in use; the demo needs it for the service users." in result.stderr


def nothing_left(shown: Demo) -> None:
    """No process and no listener of the demo, and its temporary folder is gone unless it was killed."""
    until(lambda: not [pid for pid in shown.children if parent_of(pid)])
    until(lambda: all_free(shown.ports))
    [folder] = re.findall(r"the logs are in (\S+)/", shown.text)
    if shown.process.returncode < 0:
        shutil.rmtree(folder)
    assert not Path(folder).exists()


def parent_of(pid: int) -> int:
    """The parent's pid; 0 when there is no such process, or only its exit status."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[1])


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def descendants(pid: int) -> list[int]:
    """The processes below ``pid`` now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(parent_of(int(entry.name)), []).append(int(entry.name))
    found, new = [], [pid]
    while new:
        new = [child for each in new for child in children.get(each, [])]
        found += new
    return found
