"""The run directory is lost in every way there is, while a master does everything that it can be told: requests are served
throughout, the directory is made again where that is possible, and the instance ends with the right status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from plain import GATEWAY, Connection, Load, Plain, gone, parent
from running import free_port

from tests.waiting import until

VIEW = '''
import os
from flask import Blueprint

who = Blueprint("who", __name__)

@who.route("/pid", methods=["GET", "POST"])
def pid():
    return "%d one" % os.getpid(), 200, {"Content-Type": "text/plain"}
'''


class Damaged:
    """An instance with its run directory in a folder of its own, below which anything may be done."""

    def __init__(self, place: Path, *options: str) -> None:
        self.admin = free_port()
        (place / "who.py").write_text(VIEW)
        self.parent = place / "run"
        self.instance = Plain(place, *options, application=GATEWAY,
                              config=f'[gateway]\nviews = ["who"]\nadmin = "127.0.0.1:{self.admin}"\nlog = "off"\n').started()
        self.path = self.instance.run_dirs()[0].path

    def workers(self, master: int | None = None) -> set[int]:
        """The children of the master, as the kernel knows them."""
        pid = master or self.instance.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if not gone(int(child))}

    def served_by(self) -> int:
        connection = Connection(self.instance.port)
        try:
            answer = connection.ask()
        finally:
            connection.close()
        assert answer is not None and answer[0] == 200, answer
        return int(answer[1].split()[0])

    def readiness(self) -> dict:
        try:
            return json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=20))
        except urllib.error.HTTPError as error:
            return json.load(error)

    def metrics(self) -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=20).read().decode()


# What may be done to a directory. Each gives what makes it possible to use it again.

def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def removed(it: Damaged):
    remove(it.path)


def replaced_by_a_file(it: Damaged):
    remove(it.path)
    it.path.write_text("not a directory")


def replaced_by_a_link_to_nowhere(it: Damaged):
    remove(it.path)
    it.path.symlink_to("nowhere")


def put_back_by_somebody(it: Damaged):
    remove(it.path)
    it.path.mkdir()
    (it.path / "offered").write_text("[gateway]\nnonsense = 1\n")


def unreadable(it: Damaged):
    it.path.chmod(0)


def slots_damaged(it: Damaged):
    (it.path / "workers").unlink(missing_ok=True)
    for name in ("workers", "worker.0", "worker.x"):
        (it.path / ".garbage").write_bytes(b"\xff\x00garbage")
        (it.path / ".garbage").rename(it.path / name)


def configuration_damaged(it: Damaged):
    for name in ("offered", "config", "problems"):
        (it.path / name).write_bytes(b"\xff\x00garbage")


def files_are_folders(it: Damaged):
    for name in [path.name for path in it.path.iterdir() if not path.name.startswith(".found")]:
        remove(it.path / name)
        (it.path / name).mkdir(exist_ok=True)


def parent_removed(it: Damaged):
    remove(it.parent)


def parent_replaced_by_a_file(it: Damaged):
    remove(it.parent)
    it.parent.write_text("not a directory")
    return it.parent.unlink


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


def unmounting(it: Damaged):
    return lambda: subprocess.run(["umount", "-l", str(it.parent)], check=True)


def read_only(it: Damaged):
    stage = it.parent.with_name("stage")                     # where the instance opens nothing, which would be in the way
    stage.mkdir(exist_ok=True)
    mount("--bind", str(it.parent), str(stage))
    try:
        mount("-o", "remount,bind,ro", str(stage))
        mount("--bind", str(stage), str(it.parent))          # read-only as well
    finally:
        subprocess.run(["umount", str(stage)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (it.parent / "written").touch()
    return unmounting(it)


def disk_full(it: Damaged):
    mount("-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "none", str(it.parent))
    with suppress(OSError):                                  # the instance was faster: it is full
        (it.parent / "all").write_bytes(b"x" * 4096)
    return unmounting(it)


DAMAGES = [removed, replaced_by_a_file, replaced_by_a_link_to_nowhere, put_back_by_somebody, unreadable, slots_damaged,
           configuration_damaged, files_are_folders, parent_removed, parent_replaced_by_a_file, read_only, disk_full]
LASTING = (parent_replaced_by_a_file, read_only, disk_full)      # nobody but the operator can mend these


# What a master may be told. Each returns when it has been done.

def hup(it: Damaged, load: Load) -> None:
    old = it.workers()
    it.instance.signal(signal.SIGHUP)
    until(lambda: all(gone(pid) for pid in old))
    load.more(by=lambda pid: pid not in old)


def ttin(it: Damaged, load: Load) -> None:
    before = it.workers()
    it.instance.signal(signal.SIGTTIN)
    until(lambda: len(it.workers()) == len(before) + 1)
    load.more(by=lambda pid: pid not in before)


def ttou(it: Damaged, load: Load) -> None:
    count = len(it.workers())
    it.instance.signal(signal.SIGTTOU)
    until(lambda: len(it.workers()) == count - 1)
    load.more()


def usr1(it: Damaged, load: Load) -> None:
    handled = it.instance.log.read_text().count("Handling signal: usr1")
    it.instance.signal(signal.SIGUSR1)
    until(lambda: it.instance.log.read_text().count("Handling signal: usr1") > handled)
    load.more()


OPERATIONS = [hup, ttin, usr1, ttou]


@pytest.fixture
def damaged(tmp_path):
    started, undone = [], []

    def start(*options: str) -> Damaged:
        started.append(Damaged(tmp_path, *options))
        return started[-1]

    start.undo = undone.append                               # type: ignore[attr-defined]
    yield start
    for undo in undone:
        try:
            undo()
        except (OSError, subprocess.CalledProcessError):     # done by the test
            pass
    for it in started:
        it.instance.stop()


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_that_becomes_of_the_run_directory_ends_the_instance(damaged, damage):
    it = damaged()
    load = Load(it.instance.port)
    for operation in OPERATIONS:
        undo = damage(it)
        if undo is not None:
            damaged.undo(undo)
        operation(it, load)
        assert it.instance.process.poll() is None, it.instance.log.read_text()
        assert it.readiness()["ready"] is True
        if undo is not None:
            undo()
    load.stop()
    damage(it)
    worker = next(iter(it.workers()))
    os.kill(worker, signal.SIGKILL)                          # a crash: the connections of the dead worker are lost, nothing else
    until(lambda: it.workers() and worker not in it.workers())
    assert it.served_by() != worker
    if damage in LASTING:
        until(lambda: not it.readiness()["run_dir"]["usable"])
        assert "gateway_run_dir_usable" in it.metrics()
    else:
        until(lambda: it.readiness()["run_dir"]["usable"])
    if damage is files_are_folders:
        assert it.readiness()["run_dir"]["repairs"] >= 5
        assert all(path.is_file() or path.name.startswith(".found") for path in it.path.iterdir())
    it.instance.signal(signal.SIGTERM)
    assert it.instance.ended() == 0, it.instance.log.read_text()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_worker_that_has_served_its_number_is_renewed_without_a_gap(damaged, damage):
    it = damaged("--max-requests", "100", "--graceful-timeout", "60")
    undo = damage(it)
    if undo is not None:
        damaged.undo(undo)
    load = Load(it.instance.port)
    until(lambda: len(load.answers) >= 3 or load.errors)     # a worker that cannot say so would wait for graceful_timeout
    load.stop()
    assert it.instance.process.poll() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_upgrade_over_a_lost_run_directory(damaged, damage):
    """The new master serves, or says why it cannot, and then the old one does."""
    it = damaged()
    undo = damage(it)
    if undo is not None:
        damaged.undo(undo)
    load = Load(it.instance.port)
    old = it.workers()
    master = it.instance.process.pid
    it.instance.signal(signal.SIGUSR2)
    until(lambda: "cannot make a run directory" in it.instance.log.read_text()
          or any(pid not in old for pid in load.answers) or load.errors)
    fresh = {parent(pid) for pid in load.answers if pid not in old}
    if fresh:
        it.instance.signal(signal.SIGTERM)
        assert it.instance.ended() == 0
        load.more(by=lambda pid: pid not in old)
    else:
        until(lambda: it.workers() == old)                   # the new master has ended
        assert damage in LASTING
        load.more()
    load.stop()
    assert (gone(master) and all(not gone(pid) for pid in fresh)) or not fresh


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in LASTING])
def test_what_can_be_made_again_is_made_again(damaged, damage):
    """With its mode, the states, the configuration and the numbers."""
    it = damaged()
    for _ in range(3):
        it.served_by()
    place = it.instance.run_dirs()[0]
    repairs = it.readiness()["run_dir"]["repairs"]
    damage(it)
    it.instance.signal(signal.SIGHUP)
    until(lambda: it.path.is_dir() and not it.path.is_symlink() and it.path.stat().st_mode & 0o777 == 0o700)
    until(lambda: it.instance.serving() == it.workers() and len(it.workers()) == 1)
    until(lambda: place.kept_config() == place.offered_config() == it.instance.config.read_text())
    assert place.config_problems() == []
    it.served_by()
    until(lambda: "gateway_requests_total" in it.metrics() and "gateway_run_dir_usable 1.0" in it.metrics())
    lost = damage not in (unreadable, slots_damaged, configuration_damaged)
    assert (it.readiness()["run_dir"]["repairs"] > repairs) is lost


def test_the_numbers_survive_the_directory(damaged):
    it = damaged()
    for _ in range(5):
        it.served_by()

    def requests() -> float:
        return sum(float(line.rpartition(" ")[2]) for line in it.metrics().splitlines()
                   if line.startswith("gateway_requests_total{"))

    assert requests() == 5
    removed(it)
    assert requests() == 5
    until(lambda: (it.path / "workers").exists())
    it.served_by()
    assert requests() == 6
