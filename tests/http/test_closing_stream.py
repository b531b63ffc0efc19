"""A body that holds on to something until it is closed."""

from __future__ import annotations

import pytest

from gateway.http.closing_stream import ClosingStream


class Pieces:
    def __init__(self, ready: bool = True) -> None:
        self.ready = ready

    def __iter__(self):
        return iter([b"a", b"b"])

    def close(self):
        """Its owner closes it by another way."""


@pytest.mark.parametrize("times", [1, 2])
def test_both_are_called_in_order_and_once(times):
    order = []
    stream = ClosingStream(Pieces(), lambda: order.append("first"), lambda: order.append("then"))
    assert list(stream) == [b"a", b"b"] and order == []
    for _ in range(times):
        stream.close()
    assert order == ["first", "then"] and repr(stream).endswith(", closed)")


def test_what_raises_does_not_keep_the_other_from_its_turn():
    order = []
    stream = ClosingStream(Pieces(), lambda: [][0], lambda: order.append("then"))
    with pytest.raises(IndexError):
        stream.close()
    stream.close()
    assert order == ["then"]


@pytest.mark.parametrize("stream, ready", [(Pieces(True), True), (Pieces(False), False), (iter([]), True)])
def test_it_says_whether_the_first_piece_is_here(stream, ready):
    assert ClosingStream(stream, lambda: None, lambda: None).ready is ready
