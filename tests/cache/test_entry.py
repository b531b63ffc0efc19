"""A stored answer: what a copy of it has, and what its times take."""

from __future__ import annotations

import tracemalloc
from array import array

import pytest
from stored import entry_of

from gateway.cache.entry import Entry, compact

ATTRIBUTES = tuple(name for name in dir(Entry) if not name.startswith("_") and not callable(getattr(Entry, name)))
TIMES = ("request_time", "response_time", "born", "expires", "stale_while_revalidate", "stale_if_error", "stored_at")


@pytest.mark.parametrize("packed", [False, True])
def test_a_copy_has_all_of_it_and_changes_alone(packed):
    entry = entry_of(headers=[("ETag", '"v"')], etag='"v"', last_modified=5.0, vary=(("accept", None),), tags=("a",), flags=3)
    entry.digest = "d"
    if packed:
        compact(entry, entry.url)
    copy = entry.copy()
    assert {name: getattr(copy, name) for name in ATTRIBUTES} == {name: getattr(entry, name) for name in ATTRIBUTES}
    assert copy.response().headers == entry.response().headers and len(ATTRIBUTES) == 19
    copy.expires += 1.0
    assert copy.expires != entry.expires


@pytest.mark.parametrize("different", range(1, 8))
def test_the_size_says_what_the_times_take(different):
    """Also where an entry holds its numbers itself: then they take nothing more."""
    def entry(number: int, different: int) -> Entry:
        made = entry_of(headers=(), at=0.0)
        for index, name in enumerate(TIMES):
            setattr(made, name, 1000.0 * number + 10.0 * min(index, different - 1))
        return made

    def taken(different: int) -> tuple[float, float]:
        """Bytes of each entry, and its size."""
        tracemalloc.start()
        entries = [entry(number, different) for number in range(1000)]
        sizes = array("d", [compact(each, each.url) for each in entries])
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return found / 1000, sum(sizes) / 1000

    (one, one_size), (several, size) = taken(1), taken(different)
    assert abs((several - one) - (size - one_size)) < 8.0, "a number takes 24"
