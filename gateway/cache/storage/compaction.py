"""Memory use of an entry, and how to reduce it: objects that are equal, within it and among entries, become one."""

from __future__ import annotations

from sys import getsizeof

from ..entry import Entry

OBJECT = 240                    # bytes of an entry and the tuple it is in
NUMBER = 24                     # of a moment
TEXT = 56                       # of a text, beside its characters
SAME = 0.001                    # seconds in which two moments are one
MOST_TAGS = 4096

_tags: dict[str, str] = {}


def compact(entry: Entry, key: str) -> int:
    """Compact the entry and return its size in memory, in bytes, when stored under ``key``."""
    size = OBJECT + entry.pack() + (getsizeof(entry.body) if entry.body else 0)
    if entry.tags:
        entry.tags = tuple(map(intern, entry.tags))
        size += TEXT + sum([TEXT + len(tag) for tag in entry.tags])
    else:
        entry.tags = ()                                  # an empty set takes 216 bytes
    if entry.url == key:
        entry.url = key
    else:
        size += TEXT + len(entry.url)
    if entry.vary:
        size += TEXT + sum([2 * TEXT + len(name) + len(value or "") for name, value in entry.vary])
    return size + NUMBER * moments(entry)


def moments(entry: Entry) -> int:
    """Merge equal times of the entry and return the number of different ones."""
    if abs(entry.born - entry.request_time) < SAME:      # as with most, which have no Age
        entry.born = entry.request_time
    if abs(entry.stored_at - entry.response_time) < SAME:
        entry.stored_at = entry.response_time
    if entry.stale_while_revalidate == entry.expires:
        entry.stale_while_revalidate = entry.expires
    if entry.stale_if_error == entry.expires:
        entry.stale_if_error = entry.expires
    return len({id(entry.request_time), id(entry.response_time), id(entry.born), id(entry.expires), id(entry.stored_at),
                id(entry.stale_while_revalidate), id(entry.stale_if_error), id(entry.last_modified)})


def intern(tag: str) -> str:
    """One object for a tag in all entries, for up to MOST_TAGS tags."""
    original = _tags.get(tag)
    if original is None:
        if len(_tags) >= MOST_TAGS:
            _tags.clear()
        original = _tags[tag] = tag
    return original
