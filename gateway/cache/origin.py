"""One request that goes on to the upstream, and what its answer means for what is stored.

On its way up the client's own conditions and range are taken off, so that a whole answer comes back that others can have too, and
our validators put on where something is stored. On the way back the answer is stored as the rules say, a 304 freshens what was
stored, and an error may be covered by a stale answer.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from .. import request_copies
from ..config import CacheSettings as Policy
from ..errors import BodyTooLarge, ClientDisconnected, DeadlineExceeded, GatewayError, UpstreamError
from ..http.tee import Tee
from ..message import Handler, Request, Response
from . import flags, rules
from .admission import OF_ONE_USER, Admission
from .coalesce import FAILED, Flight, Flights
from .conditional import answer
from .entry import Entry
from .fetch_context import FetchContext, Store
from .invalidation import forget, own_address, purge, resolved, untouched
from .request_directives import CONDITIONS
from .responses import Answers

TAKEN_OFF = CONDITIONS | {"range", "if-range"}
SMALL = 65536                                            # bytes


class Origin:
    """``next`` is the rest of the pipeline, ``url_of`` gives the address by which what a request gets is purged."""

    def __init__(self, next: Handler, policy: Policy, store: Store, flights: Flights, keeper: Admission, answers: Answers,
                 url_of: Callable[[Request], str], ahead: Callable[[], float] = lambda: 0.0) -> None:
        self.next = next
        self.policy = policy
        self.store = store
        self.flights = flights
        self.keeper = keeper
        self.answers = answers
        self.report = answers.report
        self.clock = answers.clock
        self.url_of = url_of
        self.ahead = ahead

    def __call__(self, miss: FetchContext, flight: Flight | None, again: bool = False) -> Response:
        """Go on to the upstream, and see what comes back. ``flight`` is what this request leads, None when it asks for itself;
        ``again``: it has gone on before, and is counted."""
        begun = self._begin(miss, again)
        try:
            response = self.next(self._outgoing(miss))
            if (covered := self._covered(miss, response)) is not None:
                return covered
            if miss.fills and not self._whole(miss, response):
                miss.fills = False                       # the next goes on with its range at once
                self.keeper.refuse(miss, "size", flight)
                return self(miss, None, again=True)
            if small(response):
                self.keeper.heard(miss, self._made(miss, response, begun), flight, response.status)
                response.read(SMALL)
        except GatewayError as error:
            self._doubt(miss, error)
            if isinstance(error, ClientDisconnected):
                raise
            if not isinstance(error, DeadlineExceeded):
                self.flights.land(flight, FAILED, error)
            return self.failed(miss, error, asked=True)
        entry = miss.entry
        if entry is not None and response.status == 304 and miss.request.method == "GET":
            return self._validated(miss, entry, response, begun, flight)
        return self._arrived(miss, response, begun, flight)

    def _doubt(self, miss: FetchContext, error: GatewayError) -> None:
        """A POST of which nobody knows what it did: it was a question if another like it is stored."""
        if miss.request.method == "POST" and miss.entry is None and not untouched(miss.request, error):
            purge(self.store, [own_address(miss.request)])

    def _begin(self, miss: FetchContext, again: bool = False) -> float:
        """It goes on now: when that is, and what the store is like. Whether the answer is for others is known with its head."""
        miss.request.head_first = True
        miss.number = self.store.number
        miss.held = self.store.held(miss.key) is not None
        if not (miss.beside or again):                   # refreshes have numbers of their own
            self.answers.note(miss, miss.reason)
        return self.clock()

    def _outgoing(self, miss: FetchContext) -> Request:
        """The request as it goes on: with our validators, and without what only this client has."""
        asked, entry = miss.asked, miss.entry
        if entry is None and (asked is None or miss.alone or asked.range is not None and not miss.fills):
            return miss.request
        validators = [] if entry is None or miss.request.method != "GET" else list(rules.validators(entry))
        return request_copies.edit(miss.request, TAKEN_OFF, validators)

    def _whole(self, miss: FetchContext, response: Response) -> bool:
        """Read what a range is to be cut out of; False when it is too large for that. What is not kept is passed on as it comes."""
        announced = response.header("Content-Length")
        size = len(response.body) if isinstance(response.body, bytes) else int(announced) if announced.isdigit() else 0
        if size > self.policy.max_object:
            close(response)
            return False
        if response.status != 200 or isinstance(response.body, bytes) or isinstance(self._made(miss, response, self.clock()), str):
            return True
        try:
            response.read(self.policy.max_object)
        except BodyTooLarge:
            return False
        return True

    def _validated(self, miss: FetchContext, entry: Entry, response: Response, begun: float, flight: Flight | None) -> Response:
        """304: what is stored is right, and newer from now on."""
        close(response)
        if not rules.confirms(entry, response.headers):                  # it is about something that is not stored
            miss.entry = None
            return self(miss, flight, again=True)
        made, whole = rules.freshened(entry, miss.request, response.headers, self.policy, request_time=begun,
                                      response_time=self.clock(), personal=miss.personal, ahead=self.ahead())
        if isinstance(made, str):
            self.keeper.refuse(miss, made, flight)
            whole.headers.append(("Cache-Status", self.report.forwarded(miss.reason, 304, miss.key, detail=made)))
            return whole
        kept = self.keeper.keep(miss, made, begun, flight)
        if isinstance(kept, str):
            return self.answers.stored(miss, made, self.report.forwarded(miss.reason, 304, miss.key, detail=kept), aged=False)
        return self.answers.stored(miss, kept, self.report.forwarded(miss.reason, 304, miss.key, stored=True), aged=False)

    def _arrived(self, miss: FetchContext, response: Response, begun: float, flight: Flight | None) -> Response:
        """A new answer: stored where it may be, and passed on."""
        body = response.body
        made = self._made(miss, response, begun)
        if isinstance(made, str):
            self.keeper.refuse(miss, made, flight, response.status)
            if miss.request.method == "POST" and made not in OF_ONE_USER:        # it was no question, then
                forget(self.store, miss.request, response)
            return self.answers.fetched(miss, response, None, made)
        if isinstance(body, bytes):
            kept = self.keeper.keep(miss, made, begun, flight)
            if miss.asked is not None:
                answered = answer(made, miss.asked, self.clock())
                if answered.status != made.status:
                    answered.headers += [field for field in response.headers if field[0].lower() == "age"]
                    response = answered
            return self._said(miss, response, kept)
        self.keeper.heard(miss, made, flight, response.status)
        if flight is not None:
            flight.stream()
        response.body = Tee(body, self.policy.max_object,
                            lambda whole, reason: self._complete(miss, made, begun, flight, whole, reason))
        return self._said(miss, response, made if self.keeper.worth_keeping(miss) else "uses")

    def _made(self, miss: FetchContext, response: Response, begun: float) -> Entry | str:
        """What would be stored of it, or why nothing is."""
        body = response.body
        size = len(body) if isinstance(body, bytes) and response.status not in (204, 304) else None
        return rules.entry_of(miss.request, response, self.policy, request_time=begun, response_time=self.clock(),
                              url=self.url_of(miss.request), personal=miss.personal, size=size, ahead=self.ahead())

    def _said(self, miss: FetchContext, response: Response, kept: Entry | str) -> Response:
        return self.answers.fetched(miss, response, *((None, kept) if isinstance(kept, str) else (kept, "")))

    def _complete(self, miss: FetchContext, entry: Entry, begun: float, flight: Flight | None, body: bytes | None,
                  reason: str) -> None:
        """The end of a stream that was stored on its way."""
        announced = next((value for name, value in entry.headers if name.lower() == "content-length"), None)
        if reason == "size":
            self.keeper.refuse(miss, reason, flight)
        elif body is None or announced is not None and int(announced) != len(body):
            self.keeper.cut(miss, flight)
        else:
            entry.body = body
            if announced is None and entry.status != 204:
                entry.headers.append(("Content-Length", str(len(body))))
            self.keeper.keep(miss, entry, begun, flight)

    # Failing

    def covers(self, miss: FetchContext, *, reached: bool) -> bool:
        """May what is stored stand in for an error?"""
        window = miss.asked.stale_if_error if miss.asked is not None else None
        entry = None if miss.beside else miss.entry
        return entry is not None and rules.may_replace_error(entry, self.clock(), reached=reached, window=window)

    def resting(self, miss: FetchContext) -> bool:
        """Did the upstream fail just now, in a way that the stale answer may cover?"""
        return any(self.flights.resting(miss.lane, reached) and self.covers(miss, reached=reached) for reached in (True, False))

    def failed(self, miss: FetchContext, error: GatewayError, *, asked: bool) -> Response:
        """The stale answer in place of an error where it may be; else the error. ``asked``: this request met it itself."""
        reached = not isinstance(error, (UpstreamError, DeadlineExceeded))
        if miss.entry is None or error.status < 500 or not self.covers(miss, reached=reached):
            raise error
        self.flights.rest(miss.lane, reached)
        if asked:
            return self.answers.replaced(miss, miss.entry, 0, error.code)
        return self.answers.stale(miss, miss.entry, error.code)

    def _covered(self, miss: FetchContext, response: Response) -> Response | None:
        """The stale answer in place of one that says the upstream failed. Those who wait have their own, or ask for themselves."""
        entry = miss.entry
        if entry is None or response.status not in rules.ERRORS or not self.covers(miss, reached=True):
            return None
        close(response)
        self.flights.rest(miss.lane, True)
        return self.answers.replaced(miss, entry, response.status, "the upstream failed")

    # Other methods

    def head(self, miss: FetchContext) -> Response:
        """HEAD that the cache could not answer. What it tells about the stored answer counts (section 4.3.5)."""
        begun, entry = self._begin(miss), miss.entry
        try:
            response = self.next(miss.request)
        except ClientDisconnected:
            raise
        except GatewayError as error:
            return self.failed(miss, error, asked=True)
        if (covered := self._covered(miss, response)) is not None:
            return covered
        if entry is not None and response.status == 200:
            if rules.same_answer(entry, response.headers):
                asker = copy(miss.request)
                asker.method = "GET"
                made, _ = rules.freshened(entry, asker, response.headers, self.policy, request_time=begun,
                                          response_time=self.clock(), personal=miss.personal, ahead=self.ahead())
                if not isinstance(made, str):
                    self.keeper.keep(miss, made, begun, None)
            else:
                self.keeper.refuse(miss, "changed", None)
        return self.answers.fetched(miss, response, None, "HEAD")

    def keep_posted(self, miss: FetchContext, response: Response) -> None:
        """An answer to POST that says it is what a GET of the same address would give (RFC 9110 section 9.3.3)."""
        body = response.body
        location = next((value for name, value in response.headers if name.lower() == "content-location"), None)
        url = self.url_of(miss.request)
        if location is None or response.status != 200 or not isinstance(body, bytes) or resolved(url, location) != url:
            return
        asker, now = copy(miss.request), self.clock()
        asker.method = "GET"
        made = rules.entry_of(asker, response, self.policy, request_time=now, response_time=now, url=url, personal=miss.personal,
                              size=len(body), ahead=self.ahead())
        if not isinstance(made, str) and now < made.expires and not made.flags & flags.GUESSED:
            miss.number = self.store.number
            self.keeper.keep(miss, made, now, None)

    def __repr__(self) -> str:
        return f"Origin({self.keeper!r})"


def small(response: Response) -> bool:
    """Is a body on its way that is announced as small? It is read before it is passed on: cut short, it is an error."""
    announced = "" if isinstance(response.body, bytes) else response.header("Content-Length")
    return announced.isdigit() and int(announced) <= SMALL


def close(response: Response) -> None:
    """Its body is not wanted."""
    if not isinstance(response.body, bytes):
        response.body.close()
