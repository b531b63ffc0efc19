"""Signals, as an operator sends them, to a real Gunicorn under load: no request is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from plain import APPLICATION, CONFIG, GATEWAY, ROOT, Connection, Load, Plain, gone
from running import free_port

from gateway.local.run_directory import RunDir
from tests.waiting import until


@pytest.fixture
def plain(tmp_path):
    """``plain(*options, **arguments)`` starts an instance that serves when this returns."""
    started = []

    def start(*options: str, workers: int = 1, **arguments) -> Plain:
        started.append(Plain(tmp_path, *options, workers=workers, **arguments))
        return started[-1].started(workers)

    yield start
    for instance in started:
        instance.stop()


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("reload", [False, True])
def test_a_log_without_room_changes_nothing(plain, tmp_path, monkeypatch, unbuffered, number, reload):
    """A disk that is full, or a file as large as it may be: requests are served, and it ends as it should."""
    (tmp_path / "errors.log").symlink_to("/dev/full")
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    port = free_port()
    instance = plain(bind=f"127.0.0.1:{port}")
    if reload:
        old = instance.serving()
        instance.signal(signal.SIGHUP)
        until(lambda: len(instance.serving()) == 1 and not instance.serving() & old)
    status, _ = Connection(port).ask()
    assert status == 200
    instance.signal(number)
    assert instance.ended() == 0


def test_hup_renews_the_workers_and_loses_nothing(plain):
    instance = plain(workers=2)
    load = Load(instance.port)
    load.more()
    old = instance.serving()
    instance.app.write_text(instance.app.read_text().replace('"one"', '"two"'))
    instance.signal(signal.SIGHUP)
    until(lambda: len(instance.serving()) == 2 and not instance.serving() & old)
    until(lambda: all(gone(pid) for pid in old))
    load.more(by=lambda pid: pid not in old)
    load.stop()
    assert load.versions["two"] >= 50


def test_term_ends_after_the_requests_that_are_under_way(plain):
    instance = plain()
    port = instance.port
    held, idle = Connection(port), Connection(port)
    assert idle.ask()[0] == 200
    held.sock.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    until(instance.held)
    worker = next(iter(instance.serving()))
    instance.signal(signal.SIGTERM)
    assert idle.rest() == b""                                # ended at once, with nothing but a FIN, while the other still waits
    until(lambda: instance.states() == {worker: "draining"})
    assert not listening(port)
    instance.release()
    assert held.answer() == (200, b"%d one" % worker)
    assert held.closing and held.rest() == b""
    assert instance.ended() == 0
    assert instance.run_dirs() == [] and gone(worker)
    for connection in (held, idle):
        connection.close()


def test_usr2_and_term_upgrade_without_loss(plain):
    admin = free_port()
    instance = plain(config=CONFIG + f'[gateway]\nadmin = "127.0.0.1:{admin}"\n')
    load = Load(instance.port)
    load.more()
    old = instance.serving()
    instance.upgraded()
    assert listening(admin)
    instance.signal(signal.SIGTERM)
    assert instance.ended() == 0
    load.more(by=lambda pid: pid not in old)
    load.stop()
    assert listening(admin)                                  # the new master's now
    assert len(instance.run_dirs()) == 1                     # each had its own; the old one's is gone
    instance.masters.pop(0)
    instance.signal(signal.SIGTERM)
    until(lambda: not listening(instance.port))
    until(lambda: gone(instance.masters[0]))
    assert not listening(admin) and instance.run_dirs() == []


def test_a_second_upgrade(plain):
    """The new master hands on what it was handed. (By the command ``gunicorn``; the other tests: ``python -m gunicorn``.)"""
    admin = free_port()
    instance = plain(config=CONFIG + f'[gateway]\nadmin = "127.0.0.1:{admin}"\n', application=GATEWAY,
                     command=(str(Path(sys.executable).with_name("gunicorn")),))
    for upgrade in (1, 2):
        instance.upgraded()
        master = instance.masters.pop(0)
        os.kill(master, signal.SIGTERM)
        until(lambda: instance.process.poll() is not None if master == instance.process.pid else gone(master))
        until(lambda: instance.log.read_text().count("Master has been promoted") == upgrade)
        old = instance.serving()
        instance.signal(signal.SIGHUP)                       # reads the environment again, with what was handed on in it
        until(lambda: instance.serving() and not set(instance.states()) & old)
    assert json.load(urllib.request.urlopen(f"http://127.0.0.1:{admin}/healthz", timeout=10))["pid"] in instance.serving()
    assert listening(instance.port)


def test_an_upgrade_without_the_admin_listener_closes_it(plain):
    admin = free_port()
    instance = plain(config=CONFIG + f'[gateway]\nadmin = "127.0.0.1:{admin}"\n')
    instance.config.write_text(CONFIG)
    instance.upgraded()
    instance.signal(signal.SIGTERM)
    assert instance.ended() == 0
    assert not listening(admin) and listening(instance.port)


def test_ttin_and_ttou_change_the_number_of_workers(plain):
    instance = plain()
    load = Load(instance.port)
    first = instance.serving()
    instance.signal(signal.SIGTTIN)
    until(lambda: len(instance.serving()) == 2)
    assert first < instance.serving()
    load.more()
    instance.signal(signal.SIGTTOU)                          # the oldest goes
    until(lambda: len(instance.states()) == 1)
    assert not instance.serving() & first
    load.more()
    load.stop()


def test_max_requests_renews_the_only_worker_without_a_gap(plain):
    instance = plain("--max-requests", "50")
    load = Load(instance.port)
    until(lambda: len(load.answers) >= 3 or load.errors)     # three generations
    load.stop()
    assert min(sorted(load.answers.values())[1:]) >= 50
    idle = Connection(instance.port)
    assert idle.ask()[0] == 200
    load = Load(instance.port)
    assert idle.rest() == b""                                # the renewal ends an idle connection with nothing but a FIN
    load.stop()
    idle.close()


def test_a_killed_worker_is_replaced_in_its_slot(plain):
    instance = plain(workers=2)
    place = instance.run_dirs()[0]
    before = place.states()
    place.memory.slot(1)[-7:] = b"numbers"
    os.kill(before[1].pid, signal.SIGKILL)
    until(lambda: len(instance.serving()) == 2 and place.states()[1].pid != before[1].pid)
    assert set(place.states()) == {0, 1} and place.states()[0] == before[0]
    assert place.memory.read(1, place.memory.room - 7, 7) == b"numbers"


def test_workers_without_a_master_finish_and_end(plain, tmp_path):
    config = CONFIG + f'[gateway]\nadmin = "127.0.0.1:{free_port()}"\n'
    instance = plain(config=config)
    held = Connection(instance.port)
    held.sock.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    until(instance.held)
    worker = next(iter(instance.serving()))
    instance.process.kill()
    instance.process.wait()
    until(lambda: instance.states() == {worker: "draining"})
    other = plain(config=config, bind=f"127.0.0.1:{instance.port}")              # on the same ports, while it still drains
    until(lambda: other.states() == {worker: "draining", **{pid: "serving" for pid in other.serving()}})
    instance.release()
    assert held.answer() == (200, b"%d one" % worker)
    until(lambda: gone(worker))
    held.close()


def test_an_upgrade_that_cannot_start_leaves_the_old_master(plain):
    instance = plain()
    load = Load(instance.port)
    instance.config.write_text("[gateway]\nnonsense = 1\n")
    instance.signal(signal.SIGUSR2)
    until(lambda: "nonsense: unknown setting" in instance.log.read_text())
    load.more()
    new = re.findall(r"\[(\d+)\] \[INFO\] Starting gunicorn", instance.log.read_text())[1]
    until(lambda: not Path(f"/proc/{new}").exists())         # it has ended, and the old master has seen that
    instance.config.write_text(CONFIG)
    instance.upgraded()
    load.more()
    load.stop()


# Mistakes

@pytest.mark.parametrize("config, mistakes", [
    ('[gateway]\nnonsense = 1\ntimeout = "-1s"\n' + CONFIG, ["nonsense: unknown setting", "timeout: "]),
    ("not TOML", ["line 1"])])
def test_a_broken_configuration_ends_the_start_with_2(tmp_path, config, mistakes):
    instance = Plain(tmp_path, "--pid", str(tmp_path / "pid"), config=config)
    assert instance.ended() == 2
    log = instance.log.read_text()
    assert all(f"gateway: {instance.config}: " in line for line in log.splitlines() if "gateway.toml" in line)
    assert [mistake for mistake in mistakes if mistake not in log] == [] and "Traceback" not in log
    assert "Listening at" not in log and not (tmp_path / "pid").exists() and instance.run_dirs() == []


@pytest.mark.parametrize("whose", ["bind", "admin"])
def test_a_port_in_use_is_named_and_ends_the_start_with_2(tmp_path, whose):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = "127.0.0.1:%d" % holder.getsockname()[1]
        config = CONFIG + (f'[gateway]\nadmin = "{address}"\n' if whose == "admin" else "")
        instance = Plain(tmp_path, config=config, bind=address if whose == "bind" else "127.0.0.1:0")
        assert instance.ended() == 2
    log = instance.log.read_text()
    assert f"gateway: cannot listen on {address}{' (admin)' if whose == 'admin' else ''}: Address already in use" in log
    assert "Traceback" not in log and instance.run_dirs() == []


BROKEN = ['[gateway]\nnonsense = 1\n', 'not TOML', '[gateway]\nviews = ["no.such.module"]\n' + CONFIG]


@pytest.mark.parametrize("broken", BROKEN, ids=["setting", "syntax", "views"])
def test_hup_with_a_broken_configuration_changes_nothing(plain, broken):
    """With the gateway itself as the application. That a view module is missing, only its workers find out."""
    def answer() -> bytes:
        connection = Connection(instance.port)
        try:
            return connection.ask()[1]
        finally:
            connection.close()

    def hup() -> None:
        old = instance.serving()
        instance.signal(signal.SIGHUP)
        until(lambda: instance.serving() and not set(instance.states()) & old)

    instance = plain(application=GATEWAY)
    place = instance.run_dirs()[0]
    assert answer() == b"unused"
    instance.config.write_text(broken)
    hup()
    assert answer() == b"unused" and place.kept_config() == CONFIG
    assert place.config_problems() and all(problem in instance.log.read_text() for problem in place.config_problems())
    instance.config.write_text(CONFIG.replace("unused", "mended"))
    hup()
    assert answer() == b"mended" and place.config_problems() == []


@pytest.mark.parametrize("conf", [str(ROOT / "gunicorn.conf.py"), str(ROOT / "gateway" / "gunicorn_conf.py"),
                                  "python:gateway.gunicorn_conf"], ids=["repository", "package", "module"])
def test_hup_moves_the_admin_listener(plain, conf):
    """However Gunicorn reads its settings: it reads them again."""
    first, second = free_port(), free_port()
    instance = plain(conf=conf, config=CONFIG + f'[gateway]\nadmin = "127.0.0.1:{first}"\n')
    assert listening(first)
    with socket.create_server(("127.0.0.1", 0)) as holder:   # to a port in use: the one there is stays
        taken = holder.getsockname()[1]
        instance.config.write_text(CONFIG + f'[gateway]\nadmin = "127.0.0.1:{taken}"\n')
        instance.signal(signal.SIGHUP)
        until(lambda: instance.run_dirs()[0].config_problems())
        assert f"127.0.0.1:{first} is kept" in instance.run_dirs()[0].config_problems()[0]
        until(lambda: len(instance.states()) == 1)
        assert listening(first)
    instance.config.write_text(CONFIG + f'[gateway]\nadmin = "127.0.0.1:{second}"\n')
    instance.signal(signal.SIGHUP)
    until(lambda: listening(second))
    until(lambda: not listening(first))                      # when the old workers have ended


def test_hup_with_code_that_cannot_start_leaves_the_old_worker_serving(plain):
    instance = plain("--graceful-timeout", "2")
    load = Load(instance.port)
    old = instance.serving()
    sound = instance.app.read_text()
    instance.app.write_text("raise RuntimeError('a broken deployment')")
    instance.signal(signal.SIGHUP)
    until(lambda: "stays: its successor cannot start" in instance.log.read_text())
    load.more(by=old.__contains__)
    assert "a broken deployment" in instance.log.read_text()
    instance.app.write_text(sound.replace('"one"', '"two"'))
    until(lambda: old == set(instance.states()))             # the one that could not start is gone
    instance.signal(signal.SIGHUP)
    load.more(by=lambda pid: pid not in old)
    load.stop()
    assert set(load.versions) == {"one", "two"} and instance.process.poll() is None


def test_term_while_a_worker_is_starting(tmp_path):
    held = "import os, time\nwhile not os.path.exists(os.path.dirname(__file__) + '/release'):\n    time.sleep(0.01)\n"
    instance = Plain(tmp_path, application=held + APPLICATION)
    until(lambda: "starting" in instance.states().values(), instance.log.read_text)
    instance.signal(signal.SIGTERM)
    until(lambda: "Handling signal: term" in instance.log.read_text(), instance.log.read_text)
    instance.release()
    assert instance.ended() == 0


def test_code_that_cannot_start_ends_the_first_start(tmp_path):
    instance = Plain(tmp_path, application="raise RuntimeError('broken')")
    assert instance.ended() == 3                             # Gunicorn's: a worker failed to boot
    assert "RuntimeError: broken" in instance.log.read_text() and instance.run_dirs() == []


def test_a_configuration_that_only_the_application_can_judge(tmp_path):
    """Views are imported in the workers. On the first start that is status 2 too; after a HUP the old worker stays."""
    instance = Plain(tmp_path, config='[gateway]\nviews = ["no.such.module"]\n' + CONFIG, application=GATEWAY)
    assert instance.ended() == 2
    assert "cannot import 'no.such.module'" in instance.log.read_text() and "Traceback" not in instance.log.read_text()
    assert instance.run_dirs() == []


def test_it_leaves_nothing_open_in_the_workers(plain):
    """A worker holds the listeners, its own pipe and the run directory, and no other worker's heartbeat file."""
    instance = plain(workers=2)
    for pid in instance.serving():
        links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum("wgunicorn-" in link for link in links) == 1, links
        assert sum("wicketgate-" in link for link in links) == 1, links
    assert isinstance(instance.run_dirs()[0], RunDir)
