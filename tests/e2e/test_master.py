"""Whatever fails in the loop of a master, the instance goes on: the same instance, with everything that it is told, in a world that
has become worse since its start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from plain import GATEWAY, ROOT, Load, Plain, gone
from running import free_port

from gateway.build import RUNNING, own_version
from tests.waiting import until

CONF = f'exec(open({str(ROOT / "gunicorn.conf.py")!r}).read())\n'


@pytest.fixture
def instance(tmp_path):
    """An instance whose Gunicorn settings, log and pid file are files of its own."""
    conf, logs = tmp_path / "conf.py", tmp_path / "logs"
    logs.mkdir()
    conf.write_text(CONF)
    made = Plain(tmp_path, "--pid", str(logs / "pid"), "--error-logfile", str(logs / "errors.log"), conf=str(conf))
    until(lambda: made.process.poll() is not None or made.serving())
    made.conf, made.logs = conf, logs
    made.log = logs / "errors.log"
    yield made
    made.stop()


@pytest.fixture
def stopping():
    """``stopping(instance)`` gives it back, and stops it after the test."""
    started = []
    yield lambda instance: started.append(instance) or instance
    for instance in started:
        instance.stop()


def logged(instance: Plain) -> str:
    """Gunicorn's log, wherever it is by now, and what went to stderr."""
    return "".join(path.read_text() for path in (instance.log, instance.place / "errors.log", instance.place / "kept.log")
                   if path.exists())


def settings_deleted(instance):
    instance.conf.unlink()
    return "settings of Gunicorn cannot be read again"


def settings_broken(instance):
    instance.conf.write_text("this is not Python")
    return "settings of Gunicorn cannot be read again"


def settings_refused(instance):
    instance.conf.write_text(CONF + "timeout = 'soon'\n")
    return "settings of Gunicorn cannot be read again"


def no_such_worker_class(instance):
    instance.conf.write_text(CONF + "worker_class = 'no.such.Worker'\n")
    return "settings of Gunicorn cannot be read again"


def address_taken(instance):
    instance.holder = socket.create_server(("127.0.0.1", 0))
    instance.conf.write_text(CONF + "bind = '127.0.0.1:%d'\n" % instance.holder.getsockname()[1])
    return "Address already in use; those there are stay"


def log_folder_deleted(instance):
    shutil.copy(instance.log, instance.place / "kept.log")
    shutil.rmtree(instance.logs)
    return ""


WORSE = [settings_deleted, settings_broken, settings_refused, no_such_worker_class, address_taken, log_folder_deleted]


@pytest.mark.parametrize("worse", WORSE)
def test_what_fails_at_a_signal_ends_nothing(instance, worse):
    port = instance.port
    load = Load(port)
    load.more()
    words = worse(instance)
    try:
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
            instance.signal(number)
            load.more()
        until(lambda: words in logged(instance))
        assert instance.process.poll() is None
        load.stop()
        os.kill(next(iter(instance.serving())), signal.SIGKILL)
        until(instance.serving)
        load = Load(port)
        load.more()
        load.stop()
        instance.signal(signal.SIGTERM)
        assert instance.ended() == 0
    finally:
        holder = getattr(instance, "holder", None)
        if holder is not None:
            holder.close()


def test_a_new_master_that_cannot_be_started_ends_alone(tmp_path, stopping):
    """Its Python was deleted: what the fork is then, a copy of the old master, must not end the old one's workers."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), tmp_path / "venv")
    (tmp_path / "venv" / "lib").symlink_to(Path(sys.prefix, "lib"))
    instance = stopping(Plain(tmp_path, command=(str(python), "-m", "gunicorn"))).started()
    load = Load(instance.port)
    load.more()
    workers = instance.serving()
    python.unlink()
    for time in (1, 2):
        instance.signal(signal.SIGUSR2)
        until(lambda: instance.log.read_text().count("The new master cannot be started") == time)
        load.more(by=workers.__contains__)
    load.stop()
    assert not any(gone(pid) for pid in workers) and instance.process.poll() is None
    instance.signal(signal.SIGTERM)
    assert instance.ended() == 0


def test_a_fork_that_fails_is_tried_again(tmp_path, stopping):
    """Also a worker's heartbeat file, or any other thing of a new worker's."""
    conf = tmp_path / "conf.py"
    conf.write_text(CONF + f"""
import os as real
fork, broken = real.fork, {str(tmp_path / "broken")!r}

def failing():
    if real.path.exists(broken):
        raise OSError(11, "Resource temporarily unavailable")
    return fork()

real.fork = failing
""")
    instance = stopping(Plain(tmp_path, conf=str(conf))).started()
    (tmp_path / "broken").touch()
    load = Load(instance.port)
    for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGTTIN):
        before = instance.log.read_text().count("failed; the master goes on")
        instance.signal(number)
        until(lambda: instance.log.read_text().count("failed; the master goes on") > before)
        load.more()
    until(lambda: set(instance.states().values()) == {"serving"})        # no slot is kept for one that was never born
    (tmp_path / "broken").unlink()
    until(lambda: len(instance.serving()) >= 2 or load.errors)
    load.more()
    load.stop()


def test_a_worker_that_cannot_start_ends_no_instance_that_has_served(tmp_path, stopping):
    """Its code was broken on the disk, then the only worker crashed: as soon as the code is mended, it serves again."""
    instance = stopping(Plain(tmp_path)).started()
    sound = instance.app.read_text()
    instance.app.write_text("raise RuntimeError('a broken deployment')")
    os.kill(next(iter(instance.serving())), signal.SIGKILL)
    until(lambda: "nobody serves until the next one can" in instance.log.read_text())
    instance.app.write_text(sound)
    until(instance.serving)
    load = Load(instance.port)
    load.more()
    load.stop()
    instance.signal(signal.SIGTERM)
    assert instance.ended() == 0


def test_the_request_log_of_a_new_worker_whose_folder_is_gone(tmp_path, stopping):
    logs = tmp_path / "logs"
    logs.mkdir()
    config = f'[gateway]\nlog = "{logs}/requests.log"\n[[routes]]\npath = "/*"\nrespond = {{ text = "1 one" }}\n'
    instance = stopping(Plain(tmp_path, application=GATEWAY, config=config)).started()
    shutil.rmtree(logs)
    old = instance.serving()
    instance.signal(signal.SIGHUP)
    until(lambda: instance.serving() and not instance.serving() & old)
    assert "request log goes to stderr" in instance.log.read_text()
    os.kill(next(iter(instance.serving())), signal.SIGKILL)
    until(instance.serving)
    load = Load(instance.port)
    load.more()
    load.stop()


# The environment

SERVES = [{"GATEWAY_BIND": "127.0.0.1:{port},"}, {"GATEWAY_BIND": " , 127.0.0.1:{port} ,, "}, {"GATEWAY_WORKERS": ""},
          {"GATEWAY_WORKERS": " 1 "}, {"GATEWAY_RUN_DIR": ""}, {"GATEWAY_TIMEOUT": "", "GATEWAY_LOG": "", "GATEWAY_ADMIN": ""},
          {"GATEWAY_ADMIN_FD": "nonsense"}, {"GATEWAY_ADMIN_FD": "0 x"}, {"GATEWAY_INSTANCE_DIR": "/nonsense"}]
REFUSED = [("GATEWAY_WORKERS", "abc"), ("GATEWAY_WORKERS", "0"), ("GATEWAY_WORKERS", "-1"), ("GATEWAY_WORKERS", "1.5"),
           ("GATEWAY_WORKERS", "\u0663"), ("GATEWAY_WORKERS", "100000"), ("GATEWAY_BIND", "127.0.0.1:http"),
           ("GATEWAY_BIND", "127.0.0.1:70000"), ("GATEWAY_BIND", "127.0.0.1:-1"), ("GATEWAY_BIND", "::1:8000"),
           ("GATEWAY_BIND", "127.0.0.1:1:2"), ("GATEWAY_BIND", "127.0.0.1:0,x:y"), ("GATEWAY_BIND", "fd://x"),
           ("GATEWAY_TIMEOUT", "abc"), ("GATEWAY_TIMEOUT", "0"), ("GATEWAY_ADMIN", "nonsense"), ("GATEWAY_ADMIN", "0.0.0.0:1"),
           ("GATEWAY_CONFIG", "/nonsense/gateway.toml"), ("GATEWAY_RUN_DIR", "/proc/nonsense"), ("GATEWAY_RUN_DIR", "/dev/null")]


def command(place: Path, environ: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    (place / "gateway.toml").write_text('[[routes]]\npath = "/*"\nrespond = { text = "1 one" }\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    defaults = {"GATEWAY_CONFIG": str(place / "gateway.toml"), "GATEWAY_BIND": "127.0.0.1:0", "PYTHONPATH": str(ROOT)}
    return ([sys.executable, "-m", "gunicorn", "-c", "python:gateway.gunicorn_conf", "gateway.app:create_app()"],
            {**kept, **defaults, **environ})


@pytest.mark.parametrize("variable, value", REFUSED)
def test_a_mistake_in_the_environment_is_named_and_ends_the_start_with_2(tmp_path, variable, value):
    arguments, environ = command(tmp_path, {variable: value})
    done = subprocess.run(arguments, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert variable in done.stderr and "Traceback" not in done.stderr and "Listening" not in done.stderr


@pytest.mark.parametrize("given", SERVES, ids=lambda given: " ".join(given))
def test_an_empty_variable_is_an_unset_one(tmp_path, given):
    port = free_port()
    given = {name: value.format(port=port) for name, value in given.items()}
    arguments, environ = command(tmp_path, {"GATEWAY_BIND": f"127.0.0.1:{port}", **given})
    with (tmp_path / "errors.log").open("wb") as log:
        process = subprocess.Popen(arguments, env=environ, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or "Booting worker" in (tmp_path / "errors.log").read_text())
        load = Load(port, kept=1, fresh=0)
        load.more(1)
        load.stop()
        assert (tmp_path / "errors.log").read_text().count("Listening at") == 1
        assert f"Wicketgate {own_version()}, {RUNNING}\n" in (tmp_path / "errors.log").read_text()
        assert "0.0.0.0" not in (tmp_path / "errors.log").read_text()
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_empty_bind_is_the_default_on_loopback(value, tmp_path):
    code = "from gateway import gunicorn_conf; print(gunicorn_conf.bind)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "GATEWAY_BIND": value, "PYTHONPATH": str(ROOT)},
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "['127.0.0.1:8000']", done.stderr
