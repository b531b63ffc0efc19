"""The files of a slot: what a process leaves is what the next one finds, and what is broken is begun anew."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from gateway.telemetry import slotfile
from gateway.telemetry.slotfile import CorruptSlotFile, ProcessMemory, SlotFile, parse, read

BOUNDS = (0.1, 1.0)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "metrics.0")


def names(keys):
    return [(key.kind, key.name, key.labels, key.at) for key in keys]


def fill(numbers):
    """A key of each kind, with numbers in it."""
    for kind, bounds in (("counter", ()), ("histogram", BOUNDS), ("gauge", ())):
        key = numbers.add(kind, f"a_{kind}", "help", (("route", "/é"),), bounds)
        for position in range(key.at, key.end):
            numbers.values[position] = position + 1.0
    return numbers


@pytest.mark.parametrize("make", [lambda path: ProcessMemory(), SlotFile], ids=["memory", "file"])
def test_keys_follow_each_other_and_start_at_zero(make, path):
    numbers = make(path)
    kinds = [("counter", ()), ("histogram", BOUNDS), ("gauge", ())]
    keys = [numbers.add(kind, f"a_{kind}", "", (), bounds) for kind, bounds in kinds]
    assert [(key.at, key.end) for key in keys] == [(0, 1), (1, 5), (5, 6)]
    assert numbers.values[:6].tolist() == [0.0] * 6
    numbers.close()


@pytest.mark.parametrize("make", [lambda path: ProcessMemory(), SlotFile], ids=["memory", "file"])
def test_array_grows_and_keeps_what_is_in_it(make, path):
    numbers = make(path)
    first = len(numbers.values)
    for count in range(first):
        numbers.values[numbers.add("counter", f"n{count}", "", (), ()).at] = count
    assert len(numbers.values) == first
    last = numbers.add("counter", "one_more", "", (), ())
    assert len(numbers.values) == 2 * first
    assert numbers.values[last.at] == 0.0
    assert numbers.values[:first].tolist() == [float(count) for count in range(first)]
    numbers.close()


def test_view_from_before_growth_still_counts_in_the_file(path):
    numbers = SlotFile(path)
    view, key = numbers.values, numbers.add("counter", "a", "", (), ())
    for count in range(len(view)):
        numbers.add("counter", f"n{count}", "", (), ())
    assert numbers.values is not view
    view[key.at] += 3
    assert numbers.values[key.at] == 3.0
    numbers.close()


def test_reader_sees_what_a_living_writer_counts(path):
    numbers = fill(SlotFile(path))
    keys, values = read(path)
    assert keys == numbers.keys
    numbers.values[0] = 42.0
    assert values[0] == 42.0
    numbers.close()


def test_next_owner_inherits_counters_and_resets_gauges(path):
    fill(SlotFile(path)).close()
    heir = SlotFile(path)
    assert heir.replaced == ""
    labels = (("route", "/é"),)
    assert names(heir.keys) == [("counter", "a_counter", labels, 0), ("histogram", "a_histogram", labels, 1),
                                ("gauge", "a_gauge", labels, 5)]
    assert heir.values[:6].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    assert heir.add("counter", "next", "", (), ()).at == 6
    heir.close()


def test_nothing_is_lost_by_kill_9(path):
    """Another process counts to a thousand and is killed without any chance to write."""
    program = ("import sys, time; from gateway.telemetry.slotfile import SlotFile\n"
               "numbers = SlotFile(sys.argv[1]); at = numbers.add('counter', 'a', '', (), ()).at\n"
               "for _ in range(1000): numbers.values[at] += 1\n"
               "print('done', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"done\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    keys, values = read(path)
    assert [key.name for key in keys] == ["a"]
    assert values[0] == 1000.0


def test_key_half_written_at_a_crash_is_dropped(path):
    fill(SlotFile(path)).close()
    with open(path + ".keys", "ab") as file:
        file.write(b'{"kind":"counter","name":"ha')
    assert len(read(path)[0]) == 3
    heir = SlotFile(path)
    assert heir.replaced == "" and len(heir.keys) == 3
    heir.add("counter", "whole", "", (), ())
    assert read(path)[0][-1].name == "whole"
    heir.close()


def spoil(tail):
    def change(path):
        with open(path + ".keys", "ab") as file:
            file.write(tail)
    return change


def shorten(size):
    return lambda path: os.truncate(path, size)


@pytest.mark.parametrize("change, reason", [
    (spoil(b"nonsense\n"), "cannot be read"),
    (spoil(b"[1,2]\n"), "cannot be read"),
    (spoil(b'{"kind":"counter","name":"a","help":"","labels":[],"bounds":[],"at":6}\n'), "cannot be read"),
    (spoil(b'{"kind":"counter","name":"gap","help":"","labels":{},"bounds":[],"at":7}\n'), "gap is at 7 instead of 6"),
    (lambda path: os.truncate(path + ".keys", 0), "format"),
    (lambda path: os.truncate(path + ".keys", 5), "format"),
    (shorten(0), "end at 0 bytes"),
    (shorten(40), "end at 40 bytes"),
], ids=["text", "list", "labels", "gap", "empty keys", "half a header", "empty", "short"])
def test_broken_files_are_refused_by_readers_and_begun_anew_by_the_owner(path, change, reason):
    old = fill(SlotFile(path))
    change(path)
    with pytest.raises(CorruptSlotFile, match=reason):
        read(path)
    inode = os.stat(path).st_ino
    heir = SlotFile(path)
    assert reason in heir.replaced
    assert heir.keys == [] and read(path)[0] == []
    assert set(heir.values[:100]) == {0.0}
    assert os.stat(path).st_ino != inode, "a file that others may have mapped is replaced, not changed"
    heir.close()
    old.close()


@pytest.mark.parametrize("missing", ["", ".keys"])
def test_half_a_pair_is_begun_anew(path, missing):
    fill(SlotFile(path)).close()
    os.unlink(path + missing)
    heir = SlotFile(path)
    assert heir.keys == [] and heir.values[0] == 0.0
    heir.close()


@pytest.mark.parametrize("room", [0, 10], ids=["none", "for half a key"])
def test_full_disk_is_an_error_and_leaves_the_file_as_it_was(path, room):
    """The kernel's limit on the size of files stands for the full disk: writes end at it."""
    numbers = fill(SlotFile(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + ".keys").st_size + room, hard))
    try:
        with pytest.raises(OSError):
            numbers.add("counter", "no_room", "", (), ())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert numbers.add("counter", "room_again", "", (), ()).at == 6
    assert [key.name for key in read(path)[0]] == ["a_counter", "a_histogram", "a_gauge", "room_again"]
    numbers.close()


def test_array_that_cannot_grow_is_an_error(path):
    numbers = SlotFile(path)
    for count in range(len(numbers.values)):
        numbers.add("counter", f"n{count}", "", (), ())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (slotfile.FIRST_SIZE, hard))
    try:
        with pytest.raises(OSError):
            numbers.add("counter", "no_room", "", (), ())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(read(path)[0]) == slotfile.FIRST_SIZE // 8
    numbers.close()


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(OSError):
        SlotFile(str(tmp_path / "absent" / "metrics.0"))


def test_parse_counts_complete_lines_only():
    assert parse(slotfile.HEADER + b"{") == ([], len(slotfile.HEADER))


def test_repr(path):
    numbers = SlotFile(path)
    assert repr(numbers) == f"SlotFile({path}, 0 keys)"
    assert repr(ProcessMemory()) == "ProcessMemory(0 keys)"
    numbers.close()
