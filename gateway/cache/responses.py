"""The answers of the cache: what is stored made into a response, and what the upstream said dressed up for the client."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..config import CacheSettings as Policy
from ..message import Headers, Request, Response
from . import rules
from .cache_status import Numbers, Report
from .conditional import answer
from .entry import Entry
from .fetch_context import FetchContext

WINDOW = re.compile("stale-(while-revalidate|if-error)=([0-9]{1,18})", re.IGNORECASE)
NOT_KEPT = re.compile("no-store|no-cache|private", re.IGNORECASE)


class Answers:
    """Each says in Cache-Status how it came about, and is counted."""

    def __init__(self, policy: Policy, report: Report, numbers: Numbers, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.report = report
        self.numbers = numbers
        self.clock = clock

    def note(self, miss: FetchContext, outcome: str) -> None:
        """For the numbers, and for the log line of the request."""
        self.numbers.outcome(outcome)
        miss.request.notes["cache"] = outcome

    def collapsed(self, miss: FetchContext, entry: Entry) -> Response:
        """What another request brought."""
        self.note(miss, "collapsed")
        return self.stored(miss, entry, self.report.forwarded(miss.reason, 0, miss.key, collapsed=True))

    def stale(self, miss: FetchContext, entry: Entry, detail: str) -> Response:
        """It stands in for an error, and this request was not sent on to get that."""
        self.note(miss, "stale-if-error")
        return self.stored(miss, entry, self.report.hit(entry, self.clock(), miss.key, detail))

    def replaced(self, miss: FetchContext, entry: Entry, status: int, detail: str) -> Response:
        """It stands in for what came back: an error with that ``status``, or with 0 no answer at all."""
        self.note(miss, "stale-if-error")
        return self.stored(miss, entry, self.report.replaced(miss.reason, status, entry, self.clock(), miss.key, detail))

    def stored(self, miss: FetchContext, entry: Entry, status: str, aged: bool = True) -> Response:
        """A stored answer for this request, with its age unless it is new. ``status`` is its Cache-Status."""
        now = self.clock()
        response = answer(entry, miss.asked, now)
        if self.policy.offload:
            response.whole = entry
        if aged or now - entry.born >= 1.0:
            response.headers.append(("Age", str(max(0, int(now - entry.born)))))
        response.headers.append(("Cache-Status", status))
        self.tell_edge(response.headers, entry, now)
        return response

    def fetched(self, miss: FetchContext, response: Response, entry: Entry | None, refusal: str) -> Response:
        """An answer of the upstream: the ``entry`` that is kept of it, or why none is."""
        response.headers = [field for field in response.headers if field[0].lower() != rules.OWN]
        text = self.report.forwarded(miss.reason, response.status, miss.key, stored=entry is not None, detail=refusal)
        response.headers.append(("Cache-Status", text))
        self.tell_edge(response.headers, entry, self.clock())
        return response

    def nothing(self, request: Request, key: str) -> Response:
        """504: only what is stored was wanted (section 5.2.1.7). It neither hit nor went on, and Cache-Status says neither."""
        self.numbers.outcome("only-if-cached")
        request.notes["cache"] = "only-if-cached"
        status = f"{self.report.name}{self.report.more(key, 'only-if-cached')}"
        return Response(504, [("Cache-Control", "no-store"), ("Content-Length", "0"), ("Cache-Status", status)], b"")

    def tell_edge(self, headers: Headers, entry: Entry | None, now: float) -> None:
        """Say to nginx how long it may keep this, in place of what the upstream says to it."""
        edge = self.policy.edge
        if edge is None:
            return
        headers[:] = [field for field in headers if field[0].lower() != "x-accel-expires"]
        seconds, place = 0.0, 0                              # in front of Cache-Control nginx obeys it whatever that says
        if entry is not None:
            control = ",".join([value for name, value in headers if name.lower() == "cache-control"])
            refresh, error = windows(control)
            seconds = rules.edge_seconds(entry, self.policy, edge, now, refresh, error)
            if error and not NOT_KEPT.search(control):       # before 1.23 nginx heeds the windows only behind them
                place = len(headers)
        headers.insert(place, ("X-Accel-Expires", str(int(seconds))))

    def __repr__(self) -> str:
        return f"Answers({self.report.name})"


def windows(control: str) -> tuple[int, int]:
    """For how many seconds at most nginx serves what has expired by this Cache-Control: while it renews it, and while nobody
    answers. It takes these numbers wherever they stand, whatever else is said beside them."""
    found = [(name.lower(), int(seconds)) for name, seconds in WINDOW.findall(control)]
    return (max((seconds for name, seconds in found if name == "while-revalidate"), default=0),
            max((seconds for _, seconds in found), default=0))
