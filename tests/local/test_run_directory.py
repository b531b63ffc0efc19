"""The run directory: slots, states, the configuration kept, and what becomes of the directories of dead instances."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.bus.clock import BUS_CLOCK
from gateway.bus.journal import Journal
from gateway.bus.notice import Notice
from gateway.local import board
from gateway.local import run_directory as rundir
from gateway.local.run_directory import RunDir, Worker


@pytest.fixture
def run_dir(tmp_path):
    made = RunDir(tmp_path / "run").create()
    yield made
    made.remove()


@pytest.fixture
def process():
    """``process()`` is the pid of a process that lives until the test ends."""
    started = []

    def start() -> int:
        started.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))
        return started[-1].pid

    yield start
    for child in started:
        child.communicate()


@pytest.fixture(autouse=True)
def no_instance():
    yield
    rundir.enter(None)


def test_the_directory_is_private(run_dir):
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("taken, freed, next_slot", [
    (0, [], 0), (1, [], 1), (2, [], 2), (1, [0], 0), (3, [1], 1), (3, [2, 0], 0), (3, [7], 3)])
def test_the_lowest_free_slot(run_dir, taken, freed, next_slot):
    assert [run_dir.take_slot() for _ in range(taken)] == list(range(taken))
    for slot in freed:
        run_dir.free_slot(slot)
    assert run_dir.take_slot() == next_slot


def test_a_new_generation_shares_no_slot_with_the_old(run_dir):
    old = [run_dir.take_slot() for _ in range(2)]
    new = [run_dir.take_slot() for _ in range(2)]
    assert not set(old) & set(new)
    for slot in old:
        run_dir.free_slot(slot)
    assert [run_dir.take_slot() for _ in range(2)] == old


def test_a_slot_counts_as_starting_before_its_worker_speaks(run_dir):
    slot = run_dir.take_slot()
    assert run_dir.states() == {slot: Worker(os.getpid(), "starting")}


def test_the_memory_of_a_slot_outlives_its_worker(run_dir):
    slot = run_dir.take_slot()
    run_dir.memory.slot(slot)[:7] = b"numbers"
    run_dir.free_slot(slot)
    assert run_dir.take_slot() == slot and RunDir(run_dir.path).memory.read(slot, 0, 7) == b"numbers"


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_the_board_knows_the_slots_that_were_used(run_dir, taken):
    for _ in range(taken):
        run_dir.take_slot()
    for slot in range(taken):
        run_dir.free_slot(slot)
    assert run_dir.board.slots == taken


def write(run_dir: RunDir, slot: int, pid: int, state: str) -> None:
    run_dir.board.put(slot, pid, state)


@pytest.mark.parametrize("states, ready", [
    ([], False), (["starting"], False), (["draining"], False), (["failed"], False), (["serving"], True), (["leaving"], True),
    (["retiring"], True), (["draining", "starting"], False), (["draining", "serving"], True)])
def test_ready_is_when_somebody_accepts(run_dir, process, states, ready):
    pids = [process() for _ in states]
    for slot, (pid, state) in enumerate(zip(pids, states)):
        write(run_dir, slot, pid, state)
    assert run_dir.ready() is ready
    assert [tuple(worker) for worker in run_dir.states().values()] == list(zip(pids, states))
    assert RunDir(run_dir.path, slot=0).other_workers() == dict(zip(pids[1:], states[1:]))
    assert RunDir(run_dir.path, slot=99).serves_without_me() is ready


def test_the_dead_do_not_count(run_dir):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    write(run_dir, 0, child.pid, "serving")
    assert run_dir.states() == {} and not run_dir.ready()


@pytest.mark.parametrize("state", ["starting", "serving", "leaving", "retiring", "draining", "failed"])
def test_states_of_this_process(run_dir, state):
    run_dir.slot = 3
    run_dir.set_state(state)
    assert run_dir.states() == {3: (os.getpid(), state)}
    assert [path.name for path in run_dir.path.iterdir()] == ["workers"]          # nothing temporary is left


def test_a_state_that_does_not_exist(run_dir):
    with pytest.raises(ValueError, match="'asleep' is none of draining, failed"):
        run_dir.set_state("asleep")


def test_configuration(run_dir):
    assert run_dir.kept_config() is None and run_dir.config_problems() == []
    run_dir.keep_config("[gateway]\n# \u00fc\n")
    run_dir.report_config(["one", "two"])
    assert run_dir.kept_config() == "[gateway]\n# \u00fc\n" and run_dir.config_problems() == ["one", "two"]
    run_dir.report_config([])
    assert run_dir.config_problems() == []


# A directory that is lost. tests/e2e/test_damage.py does it to real instances.

def gone(path):
    shutil.rmtree(path)


def file_there(path):
    gone(path)
    path.write_text("")


def link_there(path):
    gone(path)
    path.symlink_to("nowhere")


def somebody_elses(path):
    gone(path)
    path.mkdir()
    (path / "offered").write_text("garbage")


def parent_gone(path):
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("damage", [gone, file_there, link_there, somebody_elses, parent_gone])
def test_what_is_lost_is_made_again(tmp_path, process, damage):
    run_dir = RunDir(tmp_path / "parent" / "run").create()
    pid = process()
    run_dir.offer_config("offered")
    run_dir.report_config(["wrong"])
    run_dir.take_slot()
    run_dir.board.put(0, pid, "serving")
    damage(run_dir.path)
    assert run_dir.states() == {0: (pid, "serving")} and run_dir.offered_config() == "offered"
    run_dir.mend()
    assert run_dir.usable and run_dir.repairs == 1
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    seen = RunDir(run_dir.path)                                # from outside
    assert seen.states() == {0: (pid, "serving")} and seen.offered_config() == "offered" and seen.config_problems() == ["wrong"]
    rundir.remove_stale(run_dir.path.parent)
    run_dir.mend()
    assert run_dir.repairs == 1                                # it is locked, and whole
    run_dir.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_is_made_again_belongs_to_the_workers(tmp_path):
    run_dir = RunDir(tmp_path / "parent" / "run", uid=12345, gid=12346).create()
    parent_gone(run_dir.path)
    run_dir.mend()
    for path in (run_dir.path, run_dir.path.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    run_dir.remove()


@pytest.mark.parametrize("in_the_way", [Path.touch, lambda path: path.symlink_to("/proc/self")])
def test_what_cannot_be_made_again_is_shown_and_tried_again(tmp_path, caplog, in_the_way):
    run_dir = RunDir(tmp_path / "parent" / "run").create()
    parent_gone(run_dir.path)
    in_the_way(tmp_path / "parent")
    for _ in range(3):
        run_dir.offer_config("new")
        run_dir.mend()
    assert not run_dir.usable and run_dir.offered_config() == "new" and run_dir.kept_config() is None
    assert caplog.text.count("cannot be used") == 1          # once, and not each second
    (tmp_path / "parent").unlink()
    run_dir.mend()
    assert run_dir.usable and RunDir(run_dir.path).offered_config() == "new"
    run_dir.remove()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"null", b"5", b'[["a"]]', b""])
@pytest.mark.parametrize("name", ["problems", "config", "offered"])
def test_no_content_of_a_file_is_an_error(run_dir, name, content):
    (run_dir.path / name).write_bytes(content)
    run_dir.config_problems(), run_dir.kept_config(), run_dir.offered_config()
    run_dir.mend()
    run_dir.report_config(["one"])
    assert run_dir.config_problems() == ["one"]


def test_the_states_are_there_without_a_directory(run_dir):
    run_dir.enter_slot(run_dir.take_slot())
    gone(run_dir.path)
    assert not run_dir.has_served()
    run_dir.set_state("serving")
    assert run_dir.ready() and run_dir.has_served()
    run_dir.set_state("draining")
    assert not run_dir.ready() and run_dir.has_served()


def test_no_other_process_can_shorten_what_is_shared(run_dir):
    with pytest.raises(PermissionError):
        os.truncate(run_dir.path / "workers", 0)


def test_nobody_is_in_an_instance_by_himself(monkeypatch):
    monkeypatch.delenv("GATEWAY_INSTANCE_DIR", raising=False)
    assert rundir.current() is None


def test_start_enters_and_children_know(tmp_path):
    run_dir = rundir.start(tmp_path)
    assert rundir.current() is run_dir and run_dir.path.parent == tmp_path
    script = "from gateway.local import run_directory as rundir; print(rundir.current().path)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == str(run_dir.path)
    rundir.enter(None)
    assert rundir.current() is None
    run_dir.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_made(tmp_path):
    run_dir = rundir.start(tmp_path / "run" / "wicketgate")
    assert run_dir.path.is_dir()
    run_dir.remove()


def test_what_dead_instances_left_is_removed(tmp_path):
    """Two instances in processes of their own: one has died without cleaning up, one lives."""
    script = ("import sys\nfrom gateway.local import run_directory as rundir\n"
              "print(rundir.start(sys.argv[1]).path, flush=True)\ninput()")

    def instance():
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return child, child.stdout.readline().strip()

    (dead, left), (alive, kept) = instance(), instance()
    dead.kill()
    dead.communicate()
    (tmp_path / "wicketgate-of-somebody-else").mkdir()
    own = rundir.start(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {os.path.basename(kept), own.path.name, "wicketgate-of-somebody-else"}
    assert left != kept
    alive.communicate("")
    own.remove()


def test_a_child_keeps_the_directory_of_its_dead_master(tmp_path):
    """Workers go on after their master was killed: the lock is theirs too."""
    script = ("import os, sys\nfrom gateway.local import run_directory as rundir\n"
              "run_dir = rundir.start(sys.argv[1])\nif not os.fork():\n"
              "    print(os.getpid(), run_dir.path, flush=True); sys.stdin.read(); os._exit(0)\nos.wait()")
    master = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid, path = master.stdout.readline().split()
    master.kill()
    master.wait()
    rundir.remove_stale(tmp_path)
    assert os.path.isdir(path) and board.alive(int(pid))
    master.stdin.close()                                     # the child ends
    master.stdout.read()
    rundir.remove_stale(tmp_path)
    assert not os.path.isdir(path)
    master.stdout.close()


def test_it_says_what_it_is(tmp_path):
    assert repr(RunDir(tmp_path, 2)) == f"RunDir({tmp_path}, slot 2)"


# A path that is damaged: what is no file where one belongs.

def pipe_there(path):
    os.mkfifo(path)


def full_folder_there(path):
    path.mkdir()
    (path / "somebody's").write_text("kept")


IN_THE_WAY = [Path.mkdir, full_folder_there, pipe_there, lambda path: path.symlink_to("nowhere"),
              lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("/dev")]


@pytest.mark.parametrize("in_the_way", IN_THE_WAY)
def test_what_is_no_file_makes_way_for_one(tmp_path, in_the_way):
    """Each name at which a file of the directory may be, whoever opens it."""
    run_dir = RunDir(tmp_path / "run").create()
    run_dir.take_slot()
    run_dir.offer_config("offered"), run_dir.keep_config("kept"), run_dir.report_config(["wrong"])
    journal = Journal(run_dir.path / "notices")
    BUS_CLOCK.agree(agreed := run_dir.path / ".notices.clock")
    journal.start(lambda notice: None)
    assert journal.write(Notice("stages", "a", None, True, 1.0))
    names = {path.name for path in run_dir.path.iterdir()}
    assert names == {"workers", "offered", "config", "problems", "notices", ".notices.clock", ".notices.bell"}
    for name in names:
        (run_dir.path / name).unlink()
        in_the_way(run_dir.path / name)
    assert run_dir.offered_config() == "offered" and run_dir.kept_config() is None
    run_dir.mend()
    BUS_CLOCK.agree(agreed)
    journal._attach_stamp()                                     # as it does all the time
    assert journal.write(Notice("stages", "a", None, True, 2.0)) and [notice.at for notice in journal.read()][-1] == 2.0
    run_dir.mend()
    for name in names:
        assert (run_dir.path / name).is_file(), name
    assert run_dir.usable and run_dir.kept_config() == "kept" and RunDir(run_dir.path).offered_config() == "offered"
    assert 1 <= run_dir.repairs <= len(names)
    before = run_dir.repairs
    run_dir.mend()
    assert run_dir.repairs == before                           # nothing is left to do
    journal.stop()
    run_dir.remove()
