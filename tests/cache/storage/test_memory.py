"""The memory tier: a bound in bytes, what stays and what goes, constant work."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.storage.memory import CHANCES, LARGEST, NODE, SMALL_SIZE, STEP, MemoryTier, Share, whole_steps
from tests.compiled import COMPILED

KEY = 2                         # length of the keys below


def sized(entries: int, limit_of: int = 100) -> MemoryTier:
    """Room for that many entries of 100 bytes under keys of 2 characters."""
    return MemoryTier(entries * (limit_of + NODE + KEY))


def fill(memory: MemoryTier, keys, size: int = 100) -> None:
    for key in keys:
        memory.put(key, key.upper(), size)


def names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number:0{KEY - len(prefix)}x}" for number in range(count)]


def check(memory: MemoryTier) -> None:
    """Everything the tier believes of itself is so."""
    found: dict[str, object] = {}
    for queue, main in ((memory.small, False), (memory.main, True)):
        count = total = 0
        node = queue.end.newer
        while node is not queue.end:
            assert node.older.newer is node and node.newer.older is node
            assert node.main is main and memory.nodes[node.key] is node
            found[node.key] = node
            count, total = count + 1, total + node.size
            node = node.newer
        assert (queue.count, queue.bytes) == (count, total)
    assert len(found) == len(memory) == len(memory.nodes)
    assert memory.bytes <= memory.limit
    assert len(memory.ghosts) <= max(memory.main.count, 1)


def test_what_was_put_is_got():
    memory = sized(10)
    assert memory.get("aa") is None
    assert memory.put("aa", "one", 100) and memory.put("bb", "two", 100)
    assert (memory.get("aa"), memory.get("bb"), len(memory)) == ("one", "two", 2)
    assert memory.put("aa", "three", 50)
    assert (memory.get("aa"), len(memory), memory.bytes) == ("three", 2, 150 + 2 * (NODE + KEY))
    assert memory.delete("aa") and not memory.delete("aa")
    assert (memory.get("aa"), len(memory)) == (None, 1)
    memory.clear()
    assert (memory.get("bb"), len(memory), memory.bytes) == (None, 0, 0)
    check(memory)


@pytest.mark.parametrize("count, kept", [(9, 9), (10, 10), (11, 10), (200, 10)])
def test_the_bound_is_in_bytes(count, kept):
    gone = []
    memory = MemoryTier(10 * (100 + NODE + KEY), gone.append)
    fill(memory, names(count))
    assert (len(memory), sum(gone)) == (kept, count - kept)
    check(memory)


@pytest.mark.parametrize("over, kept", [(0, True), (1, False)])
def test_what_is_too_large_is_not_kept_and_neither_is_what_it_replaces(over, kept):
    memory = MemoryTier(8000)
    memory.put("aa", "old", 10)
    assert memory.put("aa", "new", 8000 // LARGEST - NODE - KEY + over) is kept
    assert memory.get("aa") == ("new" if kept else None)
    check(memory)


def test_no_room_at_all():
    memory = MemoryTier(0)
    assert not memory.put("aa", "x", 0)
    assert memory.get("aa") is None


def test_a_larger_value_under_the_same_key_makes_others_go():
    memory = sized(20)
    fill(memory, names(20))
    assert memory.put("00", "large", 600)
    assert memory.bytes <= memory.limit and len(memory) < 20
    check(memory)


def test_a_scan_leaves_alone_what_is_asked_for():
    memory = sized(40)
    hot = names(20, "h")
    fill(memory, hot)
    for _ in range(2):
        assert all(memory.get(key) for key in hot)
    fill(memory, names(250))
    fill(memory, names(16, "x"))
    assert all(memory.get(key) for key in hot)
    check(memory)


def test_what_comes_back_after_it_went_goes_to_main():
    memory = sized(20)
    fill(memory, names(18, "m"))
    for _ in range(2):
        for key in names(18, "m"):
            memory.get(key)
    fill(memory, names(60))                              # main is full of m, and "00" is a ghost by now or forgotten
    ghost = next(key for key in names(60) if hash(key) in memory.ghosts)
    memory.put(ghost, "back", 100)
    assert memory.nodes[ghost].main and hash(ghost) not in memory.ghosts
    check(memory)


@pytest.mark.skipif(COMPILED, reason="compiled code has no lines to count")
@pytest.mark.parametrize("entries", [50, 500, 5000])
def test_one_put_works_no_longer_when_there_are_many_popular_entries(entries):
    """All entries are asked for often; the next one makes room without walking through them all. Work is counted in lines."""
    memory = MemoryTier(entries * (100 + NODE + 8))
    for number in range(entries):
        memory.put(f"{number:08}", number, 100)
    for number in range(entries):
        for _ in range(5):
            memory.get(f"{number:08}")
    worst = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    for number in range(20):
        lines = 0
        sys.settrace(count)
        memory.put(f"new{number:05}", number, 100)
        sys.settrace(None)
        worst = max(worst, lines)
    if entries == 50:
        assert worst > 10                                # it counts
    assert worst < CHANCES * 40 * 2


def test_the_hottest():
    memory = sized(50)
    fill(memory, names(30))
    for key, hits in (("03", 9), ("07", 20), ("01", 5)):
        for _ in range(hits):
            memory.get(key)
    assert [(node.key, node.hits) for node in memory.hottest(3)] == [("07", 20), ("03", 9), ("01", 5)]


OPERATIONS = st.lists(st.tuples(st.sampled_from("pppgggd"), st.integers(0, 30), st.integers(0, 400)), max_size=300)


@given(OPERATIONS)
def test_whatever_is_done_it_stays_consistent(operations):
    memory, model = MemoryTier(6000), {}
    for what, number, size in operations:
        key = f"{number:02}"
        if what == "p":
            memory.put(key, size, size)
            model[key] = size
        elif what == "g":
            assert memory.get(key) in (None, model.get(key))
        else:
            memory.delete(key)
            model.pop(key, None)
            assert memory.get(key) is None
    check(memory)


def test_more_is_found_than_with_lru_when_scans_come_in_between():
    """The same trace for both: popular keys, with long stretches of keys that are read once."""
    draw, trace = random.Random(7), []
    for stretch in range(40):
        trace += [f"{min(int(draw.paretovariate(0.9)), 4000):08}" for _ in range(500)]
        trace += [f"s{stretch:03}{number:04}" for number in range(250)]
    room = 200
    memory, lru, hits = MemoryTier(room * (100 + NODE + 8)), OrderedDict(), [0, 0]
    for key in trace:
        if memory.get(key):
            hits[0] += 1
        else:
            memory.put(key, key, 100)
        if key in lru:
            lru.move_to_end(key)
            hits[1] += 1
        else:
            lru[key] = None
            if len(lru) > room:
                lru.popitem(last=False)
    assert hits[0] > hits[1] * 1.02


def test_an_owner_is_told_what_it_has():
    told: dict[str, float] = {}
    owner = Share(*(lambda number, name=name: told.__setitem__(name, number) for name in ("bytes", "entries", "evicted")))
    memory = MemoryTier(100_000)
    memory.put("a", 1, 1000, owner=owner)
    memory.put("b", 1, 1000)
    assert told == {"bytes": memory.nodes["a"].size, "entries": 1}
    memory.put("a", 1, 5000)
    assert told["bytes"] == memory.nodes["a"].size and told["entries"] == 1, "it stays its first owner's"
    memory.put("c", 1, 100, owner=owner)
    memory.delete("a")
    assert told == {"bytes": memory.nodes["c"].size, "entries": 1}
    memory.put("c", 1, 50_000, owner=owner)
    assert told == {"bytes": 0, "entries": 0}, "too large to be kept"
    memory.put("d", 1, 100, owner=owner)
    memory.clear()
    assert told == {"bytes": 0, "entries": 0} and repr(owner) == "Share(0 entries, 0 bytes)"


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, SMALL_SIZE - NODE - 1, SMALL_SIZE - NODE, 50_001])
def test_sizes_are_shared_numbers(size):
    memory = MemoryTier(10 ** 6)
    for key in ("a", "b", "long"):
        memory.put(key, 1, whole_steps(size, key))
        whole = memory.nodes[key].size
        assert size + NODE + len(key) <= whole < size + NODE + len(key) + STEP and whole % STEP == 0
    one, other, _ = memory.nodes.values()
    assert COMPILED or (one.size is other.size) is (one.size < SMALL_SIZE), "a compiled node holds its numbers"
