"""The demo's parts by themselves; the whole is in e2e/test_demo.py."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.demo.processes import ChildDied, Children
from gateway.demo.services import inventory, orders, seed, users
from gateway.demo.start import Ports, PortsUsed, environment, greeting, refuse_used, used_ports
from tests.waiting import until

ROOT = Path(__file__).parent.parent
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    seed(folder)
    return folder


@pytest.fixture
def children(tmp_path):
    children = Children(tmp_path, dict(os.environ))
    yield children
    children.stop()


def client(factory, folder: Path):
    return factory(str(folder), 0.0).test_client()


@pytest.mark.parametrize("factory, path, answer", [
    (users, "/api/users/7", {"id": 7}),
    (users, "/api/users/1000", {"id": 1000}),
    (users, "/api/teams/3", {"id": 3, "name": "Team 3"}),
    (inventory, "/api/articles/desk-001", {"sku": "desk-001", "title": "Desk no. 1"}),
])
def test_services_answer_from_their_data(data, factory, path, answer):
    received = client(factory, data).get(path)
    assert received.status_code == 200
    assert {key: received.json[key] for key in answer} == answer


@pytest.mark.parametrize("factory, path, status", [
    (users, "/api/users/0", 404), (users, "/api/users/1001", 404), (users, "/api/teams/21", 404), (users, "/nothing", 404),
    (inventory, "/api/articles/none", 404), (orders, "/api/orders", 400),
])
def test_what_does_not_exist(data, factory, path, status):
    assert client(factory, data).get(path).status_code == status


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_orders_of_a_user_latest_first(data, limit):
    found = client(orders, data).get(f"/api/orders?user_id=7&limit={limit}").json
    numbers = [order["number"] for order in found]
    assert len(numbers) == limit and numbers == sorted(numbers, reverse=True) and {order["user_id"] for order in found} <= {7}


def test_an_order_can_be_placed(tmp_path):
    seed(tmp_path)
    shop = client(orders, tmp_path)
    placed = shop.post("/api/orders", json={"user_id": 7, "sku": "desk-001", "quantity": 1, "total_cents": 100})
    assert placed.status_code == 201
    assert shop.get("/api/orders?user_id=7&limit=1").json == [placed.json]
    assert shop.post("/api/orders", json={"user_id": 7}).status_code == 400


def test_every_reference_between_services_is_good(data):
    people = rows(data, "users", "SELECT team_id, favourite FROM users")
    teams = rows(data, "users", "SELECT id FROM teams")
    articles = rows(data, "inventory", "SELECT sku FROM articles")
    assert {(team,) for team, _ in people} <= set(teams) and {(sku,) for _, sku in people} <= set(articles)
    assert set(rows(data, "orders", "SELECT DISTINCT sku FROM orders")) <= set(articles)
    assert rows(data, "users", "SELECT count(*), min(id), max(id) FROM users") == [(1000, 1, 1000)]


def test_the_data_is_the_same_everywhere(data, tmp_path):
    seed(tmp_path)
    for name, table in (("users", "users"), ("orders", "orders"), ("inventory", "articles")):
        assert rows(tmp_path, name, f"SELECT * FROM {table}") == rows(data, name, f"SELECT * FROM {table}")


@pytest.mark.parametrize("name, sql", [
    ("users", "SELECT * FROM users WHERE id = 7"), ("users", "SELECT * FROM teams WHERE id = 7"),
    ("orders", "SELECT * FROM orders WHERE user_id = 7 ORDER BY number DESC LIMIT 5"),
    ("inventory", "SELECT * FROM articles WHERE sku = 'desk-001'"),
])
def test_what_is_asked_for_is_indexed(data, name, sql):
    [plan] = [row[-1] for row in rows(data, name, f"EXPLAIN QUERY PLAN {sql}")]
    assert plan.startswith("SEARCH ")


def test_echo_shows_what_arrived(data):
    answer = client(users, data).post("/echo/x?a=1", data=b"12345", headers={"X-Any": "thing"})
    assert (answer.json["bytes"], answer.json["headers"]["X-Any"]) == (5, "thing")
    assert len(answer.headers.getlist("Set-Cookie")) == 2


def rows(folder: Path, name: str, sql: str) -> list[tuple]:
    connection = sqlite3.connect(folder / f"{name}.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_ports_follow_from_the_first():
    assert sorted(Ports(8000, nginx=True).by_name()) == [8000, 8001, 8002, 8011, 8012, 8013, 9901, 9902]
    assert sorted(Ports(8000, nginx=False).by_name()) == [8000, 8011, 8012, 8013, 9901]


@pytest.mark.parametrize("offset, what", [(0, "nginx"), (2, "instance 2 of the gateway"), (12, "the service orders"),
                                          (1901, "the admin listener of instance 1")])
def test_a_used_port_is_named_with_its_use(offset, what):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortsUsed) as caught:
            refuse_used(Ports(port - offset, nginx=True))
    assert f"Port {port} is in use; the demo needs it for {what}." in str(caught.value)


@pytest.mark.parametrize("nginx", [True, False])
def test_other_ports_are_proposed_and_they_are_free(nginx):
    """Of the numbers proposed, what is in use is passed over: here the first, by its first port and by its last."""
    for offset in (0, 1901):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            first = taken.getsockname()[1] - offset
            other = next(front for front in range(20000, 60000, 100) if not used_ports(Ports(front, nginx)))
            with pytest.raises(PortsUsed) as caught:
                refuse_used(Ports(first, nginx), others=[first, other])
        assert f'make run ARGS="--port {other}", which is gateway demo --port {other}' in str(caught.value)
        assert f"--port {first}" not in str(caught.value)


@pytest.mark.parametrize("port", [0, 63634, 70000])
def test_a_port_without_room_for_the_others(port):
    with pytest.raises(PortsUsed, match=f"Port {port} leaves no room"):
        refuse_used(Ports(port, nginx=True))


def test_nothing_of_the_users_settings_reaches_the_demo():
    given = {"PATH": "/bin", "GATEWAY_CONFIG": "mine.toml", "GUNICORN_CMD_ARGS": "-w 9", "DEMO_USERS": "x", "PYTHONPATH": "/mine"}
    given["WEB_CONCURRENCY"] = "abc"
    assert environment(given) == {"PATH": "/bin", "PYTHONPATH": f"{ROOT}{os.pathsep}/mine", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("nginx, wanted, title", [
    (True, True, "nginx on 18000, instances of the gateway on 18001 and 18002"),
    (False, True, "nginx is not installed (Debian: apt-get install nginx): one instance of the gateway listens on 18000 itself"),
    (False, False, "without nginx: one instance of the gateway listens on 18000 itself"),
])
def test_the_greeting_says_who_listens_where(tmp_path, nginx, wanted, title):
    text = greeting(Ports(18000, nginx), tmp_path, ROOT / "gateway.toml", wanted)
    assert title in text and "http://127.0.0.1:18000/api/dashboard/7" in text and "http://127.0.0.1:19901/metrics" in text
    assert "340 ms in a row, composed in about 160 ms" in text


def test_a_child_that_dies_is_named_with_its_last_words(children):
    child = children.start("service users", [sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)"])
    child.process.wait(30)
    with pytest.raises(ChildDied) as caught:
        children.check()
    assert str(caught.value) == "service users ended (exit status 3). The last lines of its output:\n    one\n    two"


def test_a_killed_child_is_named_with_its_signal(children):
    child = children.start("nginx", SLEEP)
    children.check()
    child.process.send_signal(signal.SIGKILL)
    child.process.wait(30)
    with pytest.raises(ChildDied, match=r"nginx ended \(SIGKILL\)"):
        children.check()


def test_stopping_ends_everyone(children):
    processes = [children.start(f"child {number}", SLEEP).process for number in range(3)]
    children.stop()
    assert [process.returncode for process in processes] == [-signal.SIGTERM] * 3


def test_a_child_that_ignores_sigterm_is_killed(children):
    children.grace = 0.0
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    child = children.start("deaf", [sys.executable, "-c", deaf])
    until(lambda: "deaf" in child.log.read_text())
    children.stop()
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end children with their parent")
def test_children_end_with_a_demo_that_was_killed(tmp_path):
    script = ("import os, sys, time; from pathlib import Path; from gateway.demo.processes import Children\n"
              f"children = Children(Path({str(tmp_path)!r}), dict(os.environ))\n"
              f"print(children.start('child', {SLEEP!r}).process.pid, flush=True); time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(30)
    parent.stdout.close()
    until(lambda: not running(child))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
