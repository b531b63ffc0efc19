"""Memory that the processes of an instance share."""

from __future__ import annotations

import os
import resource

import pytest

from gateway.local.shared_memory import BOARD, ROOM, SLOTS, SharedMemory, room_within


def test_slots_and_board_are_apart():
    memory = SharedMemory.make()
    for number in (0, 1, SLOTS - 1):
        memory.slot(number)[:5] = b"slot%d" % (number % 10)
    memory.board()[:5] = b"board"
    assert bytes(memory.board()[:6]) == b"board\0"
    assert [memory.read(number, 0, 6) for number in (0, 1, 2, SLOTS - 1)] == [b"slot0\0", b"slot1\0", bytes(6), b"slot9\0"]
    assert memory.room == ROOM and os.fstat(memory.fd).st_blocks * 512 < 100_000      # the rest takes no memory


def test_it_is_seen_from_another_descriptor():
    memory = SharedMemory.make()
    other = SharedMemory.at(f"/proc/self/fd/{memory.fd}")
    other.slot(3)[:3] = b"abc"
    assert memory.read(3, 0, 3) == b"abc" and other.room == memory.room
    assert repr(other) == f"SharedMemory({other.fd}, {SLOTS} slots of {ROOM} bytes)"


@pytest.mark.parametrize("size", [0, 1, BOARD])
def test_nobody_can_shorten_it(size):
    memory = SharedMemory.make()
    with pytest.raises(PermissionError):
        os.truncate(f"/proc/self/fd/{memory.fd}", size)


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_what_is_no_such_memory(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    memory = SharedMemory.at(tmp_path / "file")
    for use in (memory.board, lambda: memory.slot(0)):
        with pytest.raises((OSError, ValueError)):
            use()


@pytest.mark.parametrize("limit", [BOARD, BOARD + 100_000_000])
def test_a_limit_on_files_leaves_less_room(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        memory = SharedMemory.make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert memory.room == room_within(limit) < ROOM
    memory.board()[:1] = b"x"
