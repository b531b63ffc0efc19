"""The generation that purges change, for nginx: its steps, and what they leave behind. Who makes them is in test_purger.py."""

from __future__ import annotations

import os
import time

import gevent
import pytest

from gateway.bus.notice import Notice
from gateway.cache.purging.nginx_generation import SWEPT, Generation, edge_notice
from gateway.cache.storage.construction import http_store
from gateway.configfile.load import load_text
from gateway.errors import ConfigError
from gateway.loop.native_threads import disk_threads
from tests.clocks import ManualClock
from tests.waiting import SAFETY, until


def edge(at: float = 0.0) -> Notice:
    return edge_notice(at or time.time())


@pytest.fixture
def made(tmp_path):
    """``made(settle_time)`` is one that has begun, without the step of its beginning; ``targets`` are where its link led since."""
    running = []

    def start(settle_time: float = 0.0) -> Generation:
        generation = Generation(tmp_path / "purges" / "current", settle_time)
        generation.start()
        step, generation.targets = generation.step, []

        def counted() -> bool:
            done = step()
            generation.targets.append(os.path.realpath(generation.link))
            return done

        generation.step = counted
        running.append(generation)
        return generation

    yield start
    for generation in running:
        generation.stop()


def settle() -> None:
    """Let what runs in the background end."""
    for _ in range(20):
        gevent.sleep(0)
    disk_threads.pool().join()


def test_it_begins_with_a_generation_and_another_worker_leaves_it(made):
    first = made()
    target = os.path.realpath(first.link)
    assert os.path.isdir(target) and os.path.dirname(target) == str(first.folder)
    assert os.path.realpath(made().link) == target


def test_a_link_that_leads_nowhere_any_more_is_no_generation(made):
    target = os.path.realpath(made().link)
    os.rmdir(target)
    again = os.path.realpath(made().link)
    assert again != target and os.path.isdir(again)


def test_no_two_steps_lead_to_the_same_place(made):
    one, other = made(), made()
    for _ in range(50):
        assert one.step() and other.step()
    targets = one.targets + other.targets
    assert len(set(targets)) == 100 and all(map(os.path.isdir, targets))


def test_the_folders_it_makes_can_be_entered_whatever_the_umask(tmp_path):
    (tmp_path / "there").mkdir(0o700)
    before = os.umask(0o077)
    try:
        Generation(tmp_path / "there" / "new" / "purges" / "current").start()
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("there", "there/new", "there/new/purges")}
    assert modes == {"there": 0o700, "there/new": 0o755, "there/new/purges": 0o755}


def test_what_is_old_is_swept_away_and_nothing_else(made):
    generation = made()
    old = f"{time.time_ns() - int((SWEPT + 5) * 1e9):x}-1"
    young = f"{time.time_ns() - int((SWEPT - 50) * 1e9):x}-1"
    for name in (old, young, "kept", "12-x"):
        (generation.folder / name).mkdir()
    (generation.folder / f".{old}").symlink_to(old)
    (generation.folder / "file").touch()
    current = os.path.basename(os.path.realpath(generation.link))
    generation._sweep_at = 0.0
    generation.step()
    new = os.path.basename(generation.targets[-1])
    until(lambda: set(os.listdir(generation.folder)) == {young, "kept", "12-x", "file", current, new, "current"})


def test_the_folder_is_looked_through_once_in_a_while_and_not_for_each_step(made, monkeypatch):
    """Else the steps of a burst of purges would take longer the more there have been."""
    generation, looks, listed = made(), [], os.listdir
    settle()                                             # it has looked once
    generation.timer = ManualClock(generation._sweep_at)
    monkeypatch.setattr(os, "listdir", lambda folder: (looks.append(folder), listed(folder))[1])
    for seconds, expected in ((0.0, 1), (SWEPT / 2, 1), (SWEPT / 2, 2)):
        generation.timer.time += seconds
        assert all(generation.step() for _ in range(50))
        until(lambda: len(looks) >= expected)
        settle()
        assert looks == [generation.folder] * expected


def test_where_nothing_can_be_swept_that_is_said_and_purges_reach_nginx(made, monkeypatch, caplog):
    def failing(folder):
        raise PermissionError(13, "not allowed")

    generation = made()
    monkeypatch.setattr(os, "listdir", failing)
    generation._sweep_at = 0.0
    assert generation.step() and generation.can_step
    until(lambda: "old generations of nginx stay" in caplog.text)


def test_an_old_one_that_is_current_is_not_swept_away(made):
    """After the others have been idle for long; the sweep is another worker's, that had made its link before."""
    generation = made()
    old = f"{time.time_ns() - int((SWEPT + 5) * 1e9):x}-1"
    (generation.folder / old).mkdir()
    generation.link.unlink()
    generation.link.symlink_to(old)
    generation._sweep()
    assert os.path.isdir(os.path.realpath(generation.link))


def test_a_purge_made_here_is_a_step_at_once_and_one_more_at_last(made):
    generation = made(settle_time=0.05)
    assert generation.advance().get() is True and len(generation.targets) == 1
    until(lambda: len(generation.targets) == 2)


def test_purges_made_here_at_the_same_time_are_one_step_after_all_of_them(made):
    generation = made(settle_time=SAFETY)
    told = []

    def telling():
        done = generation.advance().get()
        told.append((done, len(generation.targets)))

    for round in (1, 2):
        gevent.joinall([gevent.spawn(telling) for _ in range(100)], timeout=SAFETY, raise_error=True)
        assert told == [(True, round)] * 100, "none has gone on before a step that began after it"
        told.clear()


def test_many_that_are_heard_at_once_are_one_step_when_all_are_known(made):
    generation = made(settle_time=SAFETY)
    for _ in range(10):
        generation.hear(edge())
        assert generation.targets == [], "what is heard with it counts first"
    until(lambda: len(generation.targets) == 1)
    generation.hear(edge())
    until(lambda: len(generation.targets) == 2)


@pytest.mark.parametrize("at, stepped, expected", [
    (-10, -5, 0), (-10, -10, 0), (-5, -10, 1), (-5, None, 1), (5, 10, 1), (5, -10, 1), (-5, 3600, 1)])
def test_what_was_purged_before_it_began_needs_only_the_step_of_others(made, at, stepped, expected):
    """Seconds from when it began: when it was purged, and when the last step was made."""
    generation = made(settle_time=SAFETY)
    began = generation._began = float(int(generation._began))            # whole seconds, which nanoseconds do not round
    generation.link.unlink()
    if stepped is not None:
        generation.link.symlink_to(f"{int((began + stepped) * 1e9):x}-1")
    generation.hear(edge(began + at))
    assert (generation._soon is not None) == expected
    if expected:
        generation._soon.join()
    assert len(generation.targets) == expected


def test_a_folder_that_cannot_be_written_to_is_said_and_no_error(tmp_path, caplog):
    (tmp_path / "purges").touch()
    generation = Generation(tmp_path / "purges" / "current")
    generation.start()
    assert "nginx keeps nothing" in caplog.text or "purges do not reach nginx" in caplog.text
    assert generation.advance().get() is False and not generation.can_step
    assert "purges do not reach nginx" in caplog.text
    (tmp_path / "purges").unlink()
    generation.start()
    assert generation.advance().get() is True and generation.can_step
    generation.stop()


CONFIG = """
[nginx]
purges = "{folder}"
[[routes]]
path = "/x"
respond = {{ text = "x" }}
cache = {{ {cache} }}
"""


@pytest.mark.parametrize("cache, expected", [('edge = "10s"', True), ('ttl = "1s"', False)])
def test_only_where_nginx_keeps_something(tmp_path, cache, expected):
    store = http_store(load_text(CONFIG.format(folder=tmp_path / "new" / "purges/", cache=cache), {}))
    assert isinstance(store.purger.generation, Generation) is expected
    store.start()
    link = tmp_path / "new" / "purges" / "current"
    assert link.is_symlink() is expected
    if expected:
        before = link.readlink()
        store.bus.deliver(edge())
        until(lambda: link.readlink() != before)
        assert store.number == 0, "it is no purge"
    store.stop()


@pytest.mark.parametrize("folder, sentence", [
    ("purges", 'does not begin with "/": nginx would look for it in another place'), ("/a b", "would end the nginx directive"),
    ("/a;b", "would end the nginx directive"), ("/$a", "would end the nginx directive")])
def test_a_folder_that_nginx_would_not_find(folder, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_text(CONFIG.format(folder=folder, cache='edge = "10s"'), {})
