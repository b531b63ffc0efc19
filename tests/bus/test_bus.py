"""The bus by itself: two topics of which it knows nothing, over real processes and a real Redis; gaps, order, and whoever waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from gateway.bus.bus import Bus
from gateway.bus.journal import Journal
from gateway.bus.notice import Notice, gap, line_of
from gateway.loop.native_threads import run_in_thread
from tests.waiting import SAFETY, until

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")


def notice(key: str, topic: str = "stages", payload: object = None, at: float = 1.0) -> Notice:
    return Notice(topic, key, payload, True, at)


class Wire:
    """A transport that writes down what it is to carry, and what it brings from others."""

    stamp = None

    def __init__(self) -> None:
        self.batches: list[list[str | None]] = []
        self.go = gevent.event.Event()
        self.go.set()
        self.accepts = True

    def write(self, *notices: Notice) -> bool:
        self.go.wait()
        self.batches.append([each.key for each in notices])
        return self.accepts

    def backlog(self) -> int:
        return 3

    def start(self, hear) -> None:
        self.hear = hear

    def stop(self) -> None:
        self.batches.append(["stopped"])


class Listener:
    """What it hears of a topic: keys, and times of gaps."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self.notices: list[Notice] = []
        self.gaps: list[float] = []
        bus.subscribe(topic, self.notices.append, self.gaps.append)

    @property
    def keys(self) -> list[str | None]:
        return [each.key for each in self.notices]


# -- here

def test_a_topic_is_heard_by_its_subscribers_only():
    bus = Bus()
    stages, also, limits = Listener(bus, "stages"), Listener(bus, "stages"), Listener(bus, "limits")
    assert bus.publish(notice("a", payload={"share": 5}), notice("b", "limits"), notice("c", "other")).wait() == 0
    assert stages.notices == also.notices == [notice("a", payload={"share": 5})] and limits.keys == ["b"]


def test_a_notice_is_of_before_now():
    bus = Bus(now=lambda: 100.0)
    stages = Listener(bus, "stages")
    for at in (99.0, 100.0, 200.0):
        bus.deliver(notice("a", at=at))
    bus.deliver(gap(200.0))
    assert [each.at for each in stages.notices] == [99.0, 100.0, 100.0] and stages.gaps == [100.0]


def test_a_gap_is_told_to_whom_it_concerns():
    bus = Bus()
    stages, limits = Listener(bus, "stages"), Listener(bus, "limits")
    bus.deliver(gap(1.0))
    bus.deliver(gap(2.0, "limits"))
    bus.deliver(gap(3.0, "other"))
    assert (stages.gaps, limits.gaps) == ([1.0], [1.0, 2.0]) and stages.keys == limits.keys == []


def test_a_subscriber_that_begins_late_has_a_gap():
    bus = Bus(now=lambda: 100.0)
    early = Listener(bus, "stages")
    bus.start()
    assert early.gaps == [] and Listener(bus, "stages").gaps == [100.0]


def test_a_subscriber_with_a_defect_harms_no_other(caplog):
    bus = Bus()
    bus.subscribe("stages", lambda notice: 1 / 0, lambda at: 1 / 0)
    stages = Listener(bus, "stages")
    bus.deliver(notice("a"))
    bus.deliver(gap(1.0))
    assert stages.keys == ["a"] and stages.gaps == [1.0] and caplog.text.count("ZeroDivisionError") >= 2


# -- to others

@pytest.mark.parametrize("accepts, told", [([], 0), ([True], 1), ([False], 0), ([True, False], 1), ([True, True], 2)])
def test_how_many_transports_have_it(accepts, told):
    wires = [Wire() for _ in accepts]
    for wire, each in zip(wires, accepts):
        wire.accepts = each
    bus = Bus(wires, patience=SAFETY)
    assert bus.send(notice("a"), notice("b", "limits")).wait() == told
    assert [wire.batches for wire in wires] == [[["a", "b"]]] * len(wires) and bus.backlog() == 3 * len(wires)
    assert bus.send().wait() == 0


def test_a_transport_that_hangs_keeps_nobody_waiting_for_longer_than_the_patience():
    slow, quick = Wire(), Wire()
    slow.go.clear()
    bus = Bus([slow, quick], patience=0.01)
    with gevent.Timeout(SAFETY):
        assert bus.send(notice("a")).wait() == 1 and quick.batches == [["a"]]
    slow.go.set()
    until(lambda: slow.batches == [["a"]])               # it goes on beside


def test_many_changes_of_few_keys_are_sent_in_few_batches():
    wire = Wire()
    write = wire.write
    wire.write = lambda *notices: (gevent.sleep(0), write(*notices))[1]
    bus = Bus([wire], patience=SAFETY)
    sending = [gevent.spawn(lambda number=number: bus.send(notice(str(number % 3))).wait()) for number in range(3000)]
    gevent.joinall(sending, timeout=SAFETY)
    assert {each.value for each in sending} == {1} and len(wire.batches) < 10 and len(wire.batches[0]) == 3


def test_from_a_native_thread():
    wire = Wire()
    bus = Bus([wire])
    assert run_in_thread(lambda: bus.send(notice("a")).wait()) == 1 and wire.batches == [["a"]]


def test_a_worker_that_ends_sends_what_is_left():
    wire = Wire()
    bus = Bus([wire])
    bus.start()
    bus.send(notice("a"))
    bus.stop(SAFETY)
    assert wire.batches == [["a"], ["stopped"]]


# -- the workers of one machine

@pytest.fixture
def pair(tmp_path):
    """Two buses over one journal, started, with nothing in the background: who does not catch up hears nothing."""
    buses = [Bus([Journal(tmp_path / "notices", poll=SAFETY)], patience=SAFETY) for _ in range(2)]
    yield buses
    for each in buses:
        each.stop(SAFETY)


def test_what_was_published_is_heard_by_whoever_catches_up(pair):
    one, other = pair
    stages, limits = Listener(other, "stages"), Listener(other, "limits")
    one.start()
    other.start()
    for number in range(3):
        assert one.publish(notice(f"{number}"), notice(f"{number}", "limits")).wait() == 1
        assert stages.keys == [f"{each}" for each in range(number)], "nobody has looked"
        other.catch_up()
        assert stages.keys == limits.keys == [f"{each}" for each in range(number + 1)]


def test_many_that_catch_up_read_once(pair):
    one, other = pair
    stages = Listener(other, "stages")
    one.start()
    other.start()
    one.publish(notice("a")).wait()
    gevent.joinall([gevent.spawn(other.catch_up) for _ in range(100)], timeout=SAFETY, raise_error=True)
    assert stages.keys == ["a"]


def test_what_cannot_be_read_in_time_keeps_one_request_waiting_and_the_next_one_not(pair, caplog):
    one, other = pair
    stages = Listener(other, "stages")
    one.start()
    other.start()
    one.publish(notice("a")).wait()
    go, catch_up = gevent.event.Event(), other._journal.catch_up
    other._journal.catch_up = lambda hear: (go.wait(), catch_up(hear))
    other.patience = 0.01
    with gevent.Timeout(SAFETY):
        other.catch_up()
        other.patience = SAFETY
        other.catch_up()
    assert stages.keys == [] and "cannot be read within 0.01 s" in caplog.text
    go.set()
    until(lambda: stages.keys == ["a"])


def test_a_gap_in_the_journal(tmp_path):
    (tmp_path / "notices").write_bytes(line_of(notice("old")) + line_of(gap(5.0, "limits")) + line_of(notice("new")))
    bus = Bus([Journal(tmp_path / "notices")])
    stages, limits = Listener(bus, "stages"), Listener(bus, "limits")
    bus.start()
    bus.stop(SAFETY)
    assert (stages.keys, stages.gaps, limits.keys, limits.gaps) == (["old", "new"], [], [], [5.0])


# -- real processes, two machines

class Process:
    """A worker process; ``said`` is what it says."""

    def __init__(self, place: Path, url: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(WORKER), str(place / "notices"), url], cwd=ROOT, text=True,
                                        env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.said: list[list[object]] = []
        self.listening = gevent.spawn(self._listen)

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def publish(self, topic: str, key: str, payload: object = None) -> None:
        told = self.count("told")
        self.process.stdin.write(json.dumps([topic, key, payload]) + "\n")
        self.process.stdin.flush()
        until(lambda: self.count("told") > told)

    def count(self, word: str) -> int:
        return sum(each[0] == word for each in self.said)

    def heard(self, topic: str) -> list[list[object]]:
        """Each once: a notice comes through the journal and through Redis."""
        found: list[list[object]] = []
        for word, *rest in self.said:
            if word == "heard" and rest[0] == topic and rest[1:] not in found:
                found.append(rest[1:])
        return found

    def stop(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(SAFETY) == 0
        self.listening.join(SAFETY)
        self.process.stdout.close()


def test_two_topics_reach_the_workers_of_two_machines(redis_server, tmp_path):
    server = redis_server()
    for name in "ab":
        (tmp_path / name).mkdir()
    one, near, far = workers = [Process(tmp_path / place, server.url) for place in "aab"]
    for each in workers:
        until(lambda each=each: ["ready"] in each.said)
    assert all(each.count("gap") >= 2 for each in workers), "the stream begins with one, for both topics"
    one.publish("stages", "catalog", {"share": 5})
    far.publish("limits", "caller", [10, "1/s"])
    one.publish("stages", "catalog", {"share": 50})
    for each in workers:
        until(lambda each=each: each.heard("stages") == [["catalog", {"share": 5}], ["catalog", {"share": 50}]])
        until(lambda each=each: each.heard("limits") == [["caller", [10, "1/s"]]])
    assert [each for each in one.said + far.said if each[0] == "told"] == [["told", 2]] * 3
    late = Process(tmp_path / "b", server.url)
    until(lambda: ["ready"] in late.said)
    assert late.heard("stages") == [["catalog", {"share": 50}]], "the latest alone"
    assert late.heard("limits") == [["caller", [10, "1/s"]]]
    for each in (*workers, late):
        each.stop()
