"""The folder as a tier: whole records or none, a bound, and several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stored import entry_of

from gateway.cache.storage import file_tier
from gateway.cache.storage.file_tier import ABANDONED_AFTER, AGES, FREE, SHARE, FileTier, age_class
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Folder:
    """A FileTier with a clock of its own, and what it counts."""

    def __init__(self, path: Path, limit: int = 10 ** 6) -> None:
        self.now = time.time()
        self.path = path
        self.failures: list[float] = []
        self.evicted: list[float] = []
        self.tier = FileTier(path, limit, on_failure=self.failures.append, on_eviction=self.evicted.append, clock=lambda: self.now)
        self.tier._bytes_written = 0                           # sweep when the test says so

    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file() and path.name != ".lock")

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_records(folder):
    tier = folder.tier
    assert tier.get("key") is None
    tier.put("key", b"one", 60)
    tier.put("k\udcff", b"two", 60)
    assert (tier.get("key"), tier.get("k\udcff")) == (b"one", b"two")
    tier.put("key", b"three", 60)
    assert tier.get("key") == b"three" and len(folder.files()) == 2
    tier.delete("key")
    tier.delete("key")
    assert tier.get("key") is None and folder.failures == []


def test_it_outlives_the_process(folder):
    folder.tier.put("key", b"one", 60)
    assert FileTier(folder.path, 1000).get("key") == b"one"


@pytest.mark.parametrize("later, there", [(0.0, True), (59.9, True), (60.1, False)])
def test_what_is_useless_is_not_given(folder, later, there):
    folder.tier.put("key", b"one", 60)
    folder.now += later
    assert (folder.tier.get("key") is not None) is there


def test_others_cannot_read_it(folder):
    folder.tier.put("key", b"one", 60)
    [path] = folder.files()
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0


def test_keys_say_nothing_about_paths(folder):
    for key in ("../../etc/passwd", "/etc/passwd", "a\0b", "", "x" * 5000):
        folder.tier.put(key, key.encode(), 60)
        assert folder.tier.get(key) == key.encode()
    assert len(folder.files()) == 5


def test_a_record_that_is_too_large_is_not_kept_nor_what_it_replaces(tmp_path):
    folder = Folder(tmp_path, limit=16_000)
    folder.tier.put("key", b"x" * int(16_000 * SHARE), 60)
    assert folder.tier.get("key")
    folder.tier.put("key", b"x" * (int(16_000 * SHARE) + 1), 60)
    assert folder.tier.get("key") is None


# -- sweeping

def test_the_longest_unused_goes_first(tmp_path):
    folder = Folder(tmp_path, limit=100_000)
    for number in range(120):
        folder.tier.put(str(number), b"x" * 1000, 10 ** 6)
        folder.now += 100
        folder.tier._bytes_written = 0
    for number in (0, 1, 2):
        assert folder.tier.get(str(number)), "asked for again"
    gone, error = folder.tier.sweep()
    assert error is None and gone == 120 - len(folder.files())
    assert 100_000 * (1 - FREE) * 0.7 < folder.bytes() <= 100_000 * (1 - FREE)
    assert all(folder.tier.get(str(number)) for number in (0, 1, 2, *range(46, 120)))
    assert not any(folder.tier.get(str(number)) for number in range(3, 8)), "of the oldest class"
    assert 10 < sum(folder.tier.get(str(number)) is not None for number in range(8, 46)) < 20, "as many as there is room"


@pytest.mark.parametrize("count, kept", [(99, 99), (100, 100), (101, 90)])
def test_nothing_goes_while_there_is_room(tmp_path, count, kept):
    folder = Folder(tmp_path, limit=100_000)
    for number in range(count):
        folder.tier.put(str(number), b"x" * 1000, 10 ** 6)
        folder.tier._bytes_written = 0
    assert folder.tier.sweep() == (count - kept, None)
    assert len(folder.files()) == kept


def test_what_is_useless_or_was_never_finished_goes(folder):
    folder.tier.put("short", b"x", 10)
    folder.tier.put("long", b"x", 10 ** 6)
    unfinished = folder.files()[0].with_name(".abc.123")
    unfinished.write_bytes(b"half")
    folder.now += 11
    assert folder.tier.sweep() == (0, None) and unfinished.exists(), "its writer may be at it"
    assert folder.tier.get("long") and len(folder.files()) == 2
    folder.now += ABANDONED_AFTER
    folder.tier.sweep()
    assert not unfinished.exists() and len(folder.files()) == 1


def test_writing_sweeps_by_itself(tmp_path):
    folder = Folder(tmp_path, limit=200_000)
    for number in range(1000):
        folder.tier.put(str(number), b"x" * 1000, 60)
        until(lambda: not folder.tier._sweeping)             # who writes is not faster than the thread that sweeps
    assert folder.bytes() <= 200_000 * (1 + 2 * SHARE)
    assert sum(folder.evicted) > 700 and folder.failures == []


def test_one_sweeps_at_a_time(folder):
    folder.tier.put("key", b"x", 1)
    folder.now += 5
    with open(folder.path / ".lock", "wb") as lock:
        file_tier.fcntl.flock(lock, file_tier.fcntl.LOCK_EX)
        assert folder.tier.sweep() == (0, None) and len(folder.files()) == 1
    folder.tier.sweep()
    assert folder.files() == []


@pytest.mark.parametrize("seconds, number", [(-5, 0), (0, 0), (1, 0), (1.2, 1), (2, 2), (10 ** 30, AGES - 1)])
def test_classes_of_age(seconds, number):
    assert age_class(seconds) == number


def test_everything_within_a_year_has_classes_that_differ():
    days = [age_class(86400 * day) for day in (0.1, 1, 2, 7, 30, 365)]
    assert days == sorted(set(days)) and days[-1] < AGES - 1


# -- what fails

def test_a_folder_that_cannot_be_used(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    folder = Folder(tmp_path / "file")
    folder.tier.put("key", b"x", 60)
    assert folder.tier.get("key") is None
    assert folder.failures and "the cache's folder" in caplog.text
    assert folder.tier.sweep()[1] is not None


def test_a_folder_that_is_removed_while_it_is_used(tmp_path):
    folder = Folder(tmp_path / "cache")
    folder.tier.put("key", b"x", 60)
    for path in folder.files():
        path.unlink()
        path.parent.rmdir()
    os.rmdir(tmp_path / "cache")
    assert folder.tier.get("key") is None
    folder.tier.put("key", b"y", 60)
    assert folder.tier.get("key") == b"y"


def test_a_reader_sees_whole_records_while_processes_write(folder):
    code = ("import sys, time; from gateway.cache.storage.file_tier import FileTier\n"
            "tier = FileTier(sys.argv[1], 10 ** 9); tier._bytes_written = 0\n"
            "for number in range(300): tier._write(tier._path_of('key'), bytes([65 + number % 26]) * 200_000, time.time() + 60)")
    writers = [subprocess.Popen([sys.executable, "-c", code, folder.path], cwd=ROOT) for _ in range(2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        data = folder.tier.get("key")
        if data is not None:
            assert len(data) == 200_000 and len(set(data)) == 1
            seen.add(data[0])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(seen) > 1 and len(folder.files()) == 1


# -- bodies that nginx sends

def test_a_body_is_a_file_named_by_its_content(folder):
    one, same, other = entry_of(body=b"a" * 1000), entry_of("http://shop.test/b", b"a" * 1000), entry_of(body=b"b" * 1000)
    names = [folder.tier.file_of(entry) for entry in (one, same, other, one)]
    assert names[0] == names[1] == names[3] != names[2]
    assert [path.read_bytes() for path in folder.files()].count(one.body) == 1 and len(folder.files()) == 2
    file = folder.path / file_tier.BODIES / names[0]
    assert file.read_bytes() == one.body and file.stat().st_mode & 0o777 == 0o640 and folder.tier._bytes_written == 2000
    file.write_bytes(b"cut")
    assert folder.tier.file_of(one) == names[0] and file.read_bytes() == one.body, "one of another size is made anew"


def test_bodies_are_within_the_bound_and_go_like_records(folder):
    for number in range(40):
        folder.now += 10
        folder.tier.file_of(entry_of(body=bytes([number]) * 50_000))
    until(lambda: not folder.tier._sweeping)             # those that began by themselves
    folder.tier.sweep()
    assert 0 < folder.bytes() <= folder.tier.limit
    folder.now += file_tier.BODY_KEPT + 1000
    folder.tier.sweep()
    assert folder.files() == []


def test_a_body_that_is_too_large_or_cannot_be_written_has_no_file(folder):
    assert folder.tier.file_of(entry_of(body=bytes(int(folder.tier.limit * SHARE) + 1))) is None
    (folder.path / file_tier.BODIES).write_bytes(b"not a folder")
    assert folder.tier.file_of(entry_of(body=bytes(1000))) is None and folder.failures == [1.0]
