"""The memory of a slot: what a process leaves is what the next one finds, and what cannot be read is begun anew."""

import signal
import subprocess
import sys

import pytest

from gateway.local.shared_memory import SharedMemory
from gateway.telemetry.slot_memory import HEADER, LENGTH, CorruptSlot, SlotMemory, parse, read, text_size

BOUNDS = (0.1, 1.0)


@pytest.fixture
def shared():
    return SharedMemory.make()


def names(keys):
    return [(key.kind, key.name, key.labels, key.at) for key in keys]


def fill(numbers):
    """A key of each kind, with numbers in it."""
    for kind, bounds in (("counter", ()), ("histogram", BOUNDS), ("gauge", ())):
        key = numbers.add(kind, f"a_{kind}", "help", (("route", "/é"),), bounds)
        for position in range(key.at, key.end):
            numbers.values[position] = position + 1.0
    return numbers


@pytest.mark.parametrize("make", [lambda shared: SlotMemory(), lambda shared: SlotMemory(shared.slot(0))], ids=["own", "shared"])
def test_keys_follow_each_other_and_start_at_zero(make, shared):
    numbers = make(shared)
    kinds = [("counter", ()), ("histogram", BOUNDS), ("gauge", ())]
    keys = [numbers.add(kind, f"a_{kind}", "", (), bounds) for kind, bounds in kinds]
    assert [(key.at, key.end) for key in keys] == [(0, 1), (1, 5), (5, 6)]
    assert numbers.values[:6].tolist() == [0.0] * 6
    assert repr(numbers) == "SlotMemory(3 keys)"


def test_reader_sees_what_a_living_writer_counts(shared):
    numbers = fill(SlotMemory(shared.slot(3)))
    keys, values = read(shared, 3)
    assert keys == numbers.keys and values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    numbers.values[0] = 42.0
    assert read(shared, 3)[1][0] == 42.0


def test_a_slot_that_was_never_used_is_empty(shared):
    keys, values = read(shared, 7)
    assert keys == [] and values.tolist() == []


def test_next_owner_inherits_counters_and_resets_gauges(shared):
    fill(SlotMemory(shared.slot(0)))
    heir = SlotMemory(shared.slot(0))
    assert heir.mismatch == ""
    labels = (("route", "/é"),)
    assert names(heir.keys) == [("counter", "a_counter", labels, 0), ("histogram", "a_histogram", labels, 1),
                                ("gauge", "a_gauge", labels, 5)]
    assert heir.values[:6].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    assert heir.add("counter", "next", "", (), ()).at == 6


def test_nothing_is_lost_by_kill_9(shared):
    """Another process counts to a thousand and is killed without any chance to write."""
    program = ("import sys, time; from gateway.local.shared_memory import SharedMemory\n"
               "from gateway.telemetry.slot_memory import SlotMemory\n"
               "numbers = SlotMemory(SharedMemory(int(sys.argv[1])).slot(0)); at = numbers.add('counter', 'a', '', (), ()).at\n"
               "for _ in range(1000): numbers.values[at] += 1\n"
               "print('done', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", program, str(shared.fd)], stdout=subprocess.PIPE, pass_fds=[shared.fd])
    try:
        assert process.stdout.readline() == b"done\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    keys, values = read(shared, 0)
    assert [key.name for key in keys] == ["a"]
    assert values[0] == 1000.0


def test_a_key_half_written_at_a_crash_does_not_count(shared):
    numbers = fill(SlotMemory(shared.slot(0)))
    numbers._text[numbers._length[0]:numbers._length[0] + 9] = b'{"kind":"'
    assert len(read(shared, 0)[0]) == 3
    heir = SlotMemory(shared.slot(0))
    assert heir.mismatch == "" and len(heir.keys) == 3
    heir.add("counter", "whole", "", (), ())
    assert read(shared, 0)[0][-1].name == "whole"


def append(text):
    return lambda numbers: numbers._append(text)


def set_length(length):
    def change(numbers):
        numbers._length[0] = length
    return change


@pytest.mark.parametrize("change, reason", [
    (append(b"nonsense\n"), "cannot be read"),
    (append(b"[1,2]\n"), "cannot be read"),
    (append(b'{"kind":"counter","name":"a","help":"","labels":[],"bounds":[],"at":6}\n'), "cannot be read"),
    (append(b'{"kind":"counter","name":"gap","help":"","labels":{},"bounds":[],"at":7}\n'), "gap is at 7 instead of 6"),
    (set_length(5), "format"), (set_length(-1), "format"), (set_length(20), "cannot be read"),
    (set_length(1 << 40), "cannot be read"),
], ids=["text", "list", "labels", "gap", "half a header", "negative", "half a key", "more than all"])
def test_what_cannot_be_read_is_refused_by_readers_and_begun_anew_by_the_owner(shared, change, reason):
    change(fill(SlotMemory(shared.slot(0))))
    with pytest.raises(CorruptSlot, match=reason):
        read(shared, 0)
    heir = SlotMemory(shared.slot(0))
    assert reason in heir.mismatch
    assert heir.keys == [] and read(shared, 0)[0] == []
    key = heir.add("histogram", "new", "", (), BOUNDS)
    assert set(heir.values[key.at:key.end]) == {0.0}


@pytest.mark.parametrize("room, names", [(450, ["a"]), (600, ["a", "b"])])
def test_memory_that_is_full_is_an_error_and_stays_as_it_was(room, names):
    numbers = SlotMemory(memoryview(bytearray(room)))
    for name in names:
        numbers.add("counter", name, "h" * 80, (), ())
    with pytest.raises(OSError, match="no room for another key"):
        numbers.add("counter", "c", "h" * 300, (), ())
    assert [key.name for key in numbers.keys] == names
    numbers.add("counter", "c", "", (), ())


def test_more_numbers_than_there_is_room_for_are_an_error():
    numbers = SlotMemory(memoryview(bytearray(600)))
    with pytest.raises(OSError, match="no room for another number"):
        numbers.add("histogram", "a", "", (), tuple(range(20)))
    assert numbers.keys == [] and text_size(600) == 480


def test_a_key_whose_numbers_are_not_there_is_refused():
    line = SlotMemory().add("histogram", "a", "", (), BOUNDS).line()
    assert len(parse(HEADER + line, 4)) == 1
    with pytest.raises(CorruptSlot, match="ends at 4 of 3"):
        parse(HEADER + line, 3)
    assert LENGTH == 8
