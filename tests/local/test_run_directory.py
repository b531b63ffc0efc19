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
def place(tmp_path):
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


def test_the_directory_is_private(place):
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("taken, freed, next_slot", [
    (0, [], 0), (1, [], 1), (2, [], 2), (1, [0], 0), (3, [1], 1), (3, [2, 0], 0), (3, [7], 3)])
def test_the_lowest_free_slot(place, taken, freed, next_slot):
    assert [place.take_slot() for _ in range(taken)] == list(range(taken))
    for slot in freed:
        place.free_slot(slot)
    assert place.take_slot() == next_slot


def test_a_new_generation_shares_no_slot_with_the_old(place):
    old = [place.take_slot() for _ in range(2)]
    new = [place.take_slot() for _ in range(2)]
    assert not set(old) & set(new)
    for slot in old:
        place.free_slot(slot)
    assert [place.take_slot() for _ in range(2)] == old


def test_a_slot_counts_as_starting_before_its_worker_speaks(place):
    slot = place.take_slot()
    assert place.states() == {slot: Worker(os.getpid(), "starting")}


def test_the_memory_of_a_slot_outlives_its_worker(place):
    slot = place.take_slot()
    place.memory.slot(slot)[:7] = b"numbers"
    place.free_slot(slot)
    assert place.take_slot() == slot and RunDir(place.path).memory.read(slot, 0, 7) == b"numbers"


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_the_board_knows_the_slots_that_were_used(place, taken):
    for _ in range(taken):
        place.take_slot()
    for slot in range(taken):
        place.free_slot(slot)
    assert place.board.slots == taken


def write(place: RunDir, slot: int, pid: int, state: str) -> None:
    place.board.put(slot, pid, state)


@pytest.mark.parametrize("states, ready", [
    ([], False), (["starting"], False), (["draining"], False), (["failed"], False), (["serving"], True), (["leaving"], True),
    (["retiring"], True), (["draining", "starting"], False), (["draining", "serving"], True)])
def test_ready_is_when_somebody_accepts(place, process, states, ready):
    pids = [process() for _ in states]
    for slot, (pid, state) in enumerate(zip(pids, states)):
        write(place, slot, pid, state)
    assert place.ready() is ready
    assert [tuple(worker) for worker in place.states().values()] == list(zip(pids, states))
    assert RunDir(place.path, slot=0).other_workers() == dict(zip(pids[1:], states[1:]))
    assert RunDir(place.path, slot=99).serves_without_me() is ready


def test_the_dead_do_not_count(place):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    write(place, 0, child.pid, "serving")
    assert place.states() == {} and not place.ready()


@pytest.mark.parametrize("state", ["starting", "serving", "leaving", "retiring", "draining", "failed"])
def test_states_of_this_process(place, state):
    place.slot = 3
    place.set_state(state)
    assert place.states() == {3: (os.getpid(), state)}
    assert [path.name for path in place.path.iterdir()] == ["workers"]          # nothing temporary is left


def test_a_state_that_does_not_exist(place):
    with pytest.raises(ValueError, match="'asleep' is none of draining, failed"):
        place.set_state("asleep")


def test_configuration(place):
    assert place.kept_config() is None and place.config_problems() == []
    place.keep_config("[gateway]\n# \u00fc\n")
    place.report_config(["one", "two"])
    assert place.kept_config() == "[gateway]\n# \u00fc\n" and place.config_problems() == ["one", "two"]
    place.report_config([])
    assert place.config_problems() == []


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
    place = RunDir(tmp_path / "parent" / "run").create()
    pid = process()
    place.offer_config("offered")
    place.report_config(["wrong"])
    place.take_slot()
    place.board.put(0, pid, "serving")
    damage(place.path)
    assert place.states() == {0: (pid, "serving")} and place.offered_config() == "offered"
    place.mend()
    assert place.usable and place.repairs == 1
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700
    seen = RunDir(place.path)                                # from outside
    assert seen.states() == {0: (pid, "serving")} and seen.offered_config() == "offered" and seen.config_problems() == ["wrong"]
    rundir.remove_stale(place.path.parent)
    place.mend()
    assert place.repairs == 1                                # it is locked, and whole
    place.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_is_made_again_belongs_to_the_workers(tmp_path):
    place = RunDir(tmp_path / "parent" / "run", uid=12345, gid=12346).create()
    parent_gone(place.path)
    place.mend()
    for path in (place.path, place.path.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    place.remove()


@pytest.mark.parametrize("in_the_way", [Path.touch, lambda path: path.symlink_to("/proc/self")])
def test_what_cannot_be_made_again_is_shown_and_tried_again(tmp_path, caplog, in_the_way):
    place = RunDir(tmp_path / "parent" / "run").create()
    parent_gone(place.path)
    in_the_way(tmp_path / "parent")
    for _ in range(3):
        place.offer_config("new")
        place.mend()
    assert not place.usable and place.offered_config() == "new" and place.kept_config() is None
    assert caplog.text.count("cannot be used") == 1          # once, and not each second
    (tmp_path / "parent").unlink()
    place.mend()
    assert place.usable and RunDir(place.path).offered_config() == "new"
    place.remove()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"null", b"5", b'[["a"]]', b""])
@pytest.mark.parametrize("name", ["problems", "config", "offered"])
def test_no_content_of_a_file_is_an_error(place, name, content):
    (place.path / name).write_bytes(content)
    place.config_problems(), place.kept_config(), place.offered_config()
    place.mend()
    place.report_config(["one"])
    assert place.config_problems() == ["one"]


def test_the_states_are_there_without_a_directory(place):
    place.enter_slot(place.take_slot())
    gone(place.path)
    assert not place.has_served()
    place.set_state("serving")
    assert place.ready() and place.has_served()
    place.set_state("draining")
    assert not place.ready() and place.has_served()


def test_no_other_process_can_shorten_what_is_shared(place):
    with pytest.raises(PermissionError):
        os.truncate(place.path / "workers", 0)


def test_nobody_is_in_an_instance_by_himself(monkeypatch):
    monkeypatch.delenv("GATEWAY_INSTANCE_DIR", raising=False)
    assert rundir.current() is None


def test_start_enters_and_children_know(tmp_path):
    place = rundir.start(tmp_path)
    assert rundir.current() is place and place.path.parent == tmp_path
    script = "from gateway.local import run_directory as rundir; print(rundir.current().path)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == str(place.path)
    rundir.enter(None)
    assert rundir.current() is None
    place.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_made(tmp_path):
    place = rundir.start(tmp_path / "run" / "wicketgate")
    assert place.path.is_dir()
    place.remove()


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
              "place = rundir.start(sys.argv[1])\nif not os.fork():\n"
              "    print(os.getpid(), place.path, flush=True); sys.stdin.read(); os._exit(0)\nos.wait()")
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
    place = RunDir(tmp_path / "run").create()
    place.take_slot()
    place.offer_config("offered"), place.keep_config("kept"), place.report_config(["wrong"])
    journal = Journal(place.path / "notices")
    BUS_CLOCK.agree(agreed := place.path / ".notices.clock")
    journal.start(lambda notice: None)
    assert journal.write(Notice("stages", "a", None, True, 1.0))
    names = {path.name for path in place.path.iterdir()}
    assert names == {"workers", "offered", "config", "problems", "notices", ".notices.clock", ".notices.bell"}
    for name in names:
        (place.path / name).unlink()
        in_the_way(place.path / name)
    assert place.offered_config() == "offered" and place.kept_config() is None
    place.mend()
    BUS_CLOCK.agree(agreed)
    journal._attach_stamp()                                     # as it does all the time
    assert journal.write(Notice("stages", "a", None, True, 2.0)) and [notice.at for notice in journal.read()][-1] == 2.0
    place.mend()
    for name in names:
        assert (place.path / name).is_file(), name
    assert place.usable and place.kept_config() == "kept" and RunDir(place.path).offered_config() == "offered"
    assert 1 <= place.repairs <= len(names)
    before = place.repairs
    place.mend()
    assert place.repairs == before                           # nothing is left to do
    journal.stop()
    place.remove()
