"""A notice: a message that one worker publishes to all, by topic. Pure.

Of several notices with the same topic and key the latest supersedes the others (log compaction): a late subscriber may get it
alone. A notice that is not retained is for the workers that run now; a log keeps such notices in its newer half only.

A *gap* is a notice without a key: notices of its topic, or of EVERY topic, published up to its time may be lost.

In a log a notice is a JSON list, ``[topic, key, payload, retain, at]``. A later version may add elements at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

LONGEST = 1024 ** 2             # bytes of one notice in a log
EVERY = ""                      # in place of a topic

Identity = tuple[str, str | None]


class Notice(NamedTuple):
    """``payload`` is a JSON value, ``at`` the time of publication in seconds (clock.py)."""

    topic: str
    key: str | None
    payload: Any
    retain: bool
    at: float

    @property
    def identity(self) -> Identity:
        return self.topic, self.key


Deliver = Callable[[Notice], None]                       # a transport calls it with each notice that comes


def gap(at: float, topic: str = EVERY) -> Notice:
    return Notice(topic, None, None, True, at)


def gaps(notices: dict[Identity, Notice], at: float) -> dict[Identity, Notice]:
    """One gap for each topic of these notices, by identity: what replaces them."""
    return {(topic, None): gap(at, topic) for topic in dict.fromkeys(topic for topic, _ in notices)}


def json_text(*elements: Any) -> str:
    return json.dumps(elements, separators=(",", ":"))


def line_of(notice: Notice) -> bytes:
    return json_text(*notice).encode() + b"\n"


def notice_from(elements: Any) -> Notice | None:
    """Parse the JSON list of a notice; None when it is not one."""
    match elements:
        case [str(topic), str() | None as key, payload, bool(retain), int() | float() as at, *_] if at == at:
            return Notice(topic, key, payload, retain, float(at))
    return None


def parse(line: bytes) -> Notice | None:
    """Parse a line of a log; None when it is not a notice."""
    try:
        return notice_from(json.loads(line))
    except ValueError:
        return None
