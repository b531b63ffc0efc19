"""Parsing the Range field: the ranges of bytes that a client wants (RFC 9110 section 14). Pure.

What cannot be read is ignored, and so are ranges that together are more than the whole, or too many (section 14.2 lets a server).
"""

from __future__ import annotations

import re

MOST = 32
RANGES = re.compile(r"bytes=([0-9, \t-]{1,1000})", re.IGNORECASE)
RANGE = re.compile(r"([0-9]*)-([0-9]*)")           # as many digits as RANGES lets through: a position past the end is one

Bounds = tuple[int, int]


def byte_ranges(text: str, length: int) -> list[Bounds] | None:
    """First and last byte of each range; an empty list when none is satisfiable; None to send the whole of ``length`` bytes."""
    match = RANGES.fullmatch(text.strip())
    items = [item.strip(" \t") for item in match[1].split(",")] if match else []
    matches = [RANGE.fullmatch(item) for item in items if item]
    if not matches or len(matches) > MOST:
        return None
    ranges = []
    for one in matches:
        if one is None or one[0] == "-" or (one[1] and one[2] and int(one[2]) < int(one[1])):
            return None
        first = int(one[1]) if one[1] else max(0, length - int(one[2]))
        last = min(int(one[2]), length - 1) if one[1] and one[2] else length - 1
        if first <= last:
            ranges.append((first, last))
    return None if sum(last - first + 1 for first, last in ranges) > length else ranges
