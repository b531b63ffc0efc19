"""Log compaction of notices. Pure: lines in, lines out.

Of several notices with the same topic and key only the latest is kept, in its index. From the older half of the log, notices
that are not retained are dropped. If the rest is still too long, the largest topic loses the older half of its notices, and a gap
replaces them: a busy topic costs the others nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .notice import Identity, gap, line_of, parse


class Line(NamedTuple):
    topic: str
    at: float
    text: bytes


def latest(lines: Iterable[bytes], size: int) -> list[Line]:
    """Keep the latest notice of each topic and key in a log of ``size`` bytes; lines that are no notice are dropped."""
    newest: dict[Identity, Line] = {}
    read = 0
    for text in lines:
        read += len(text)
        notice = parse(text)
        if notice is None or not notice.retain and read <= size / 2:
            continue
        before = newest.pop(notice.identity, None)
        newest[notice.identity] = before if before is not None and before.at > notice.at else Line(notice.topic, notice.at, text)
    return list(newest.values())


def halve(lines: list[Line]) -> list[Line]:
    """Replace the older half of the topic that has most bytes by one gap."""
    sizes = Counter[str]()
    for line in lines:
        sizes[line.topic] += len(line.text)
    [(topic, _)] = sizes.most_common(1) or [("", 0)]
    indexes = [index for index, line in enumerate(lines) if line.topic == topic]
    victims = set(indexes[:(len(indexes) + 1) // 2])
    until = max([lines[index].at for index in victims], default=0.0)
    return [Line(topic, until, line_of(gap(until, topic))), *(line for index, line in enumerate(lines) if index not in victims)]


def total(lines: Iterable[Line]) -> int:
    return sum([len(line.text) for line in lines])
