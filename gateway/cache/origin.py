"""Forwards a request to the upstream, and updates the store with the response.

The request is forwarded without the client's conditions and range, so that the response is complete and can be shared, and with
validators of the stored answer, if there is one. The response is stored as the rules allow, a 304 freshens the stored answer, and
a stale answer may replace an error.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import request_copies
from ..config import CacheSettings as Policy
from ..errors import BodyTooLarge, ClientDisconnected, DeadlineExceeded, GatewayError, UpstreamError
from ..http.tee import Tee
from ..message import Handler, Request, Response
from . import rules
from .admission import Admission
from .cache_status import Responses
from .coalesce import Flight, FlightState
from .conditional import answer
from .decide import may_replace_error
from .entry import GUESS, Entry
from .fetch_context import FetchContext, Store
from .purging.invalidation import forget, had_no_effect, own_address, purge, resolve
from .reasons import NotStored
from .request_directives import CONDITIONS

CLIENTS_OWN = CONDITIONS | {"range", "if-range"}         # fields that are not forwarded
SMALL = 65536                                            # bytes


class Origin:
    """``next`` is the rest of the pipeline, ``url_of`` returns the URL by which the answer to a request is purged."""

    def __init__(self, next: Handler, policy: Policy, store: Store, admission: Admission, responses: Responses,
                 url_of: Callable[[Request], str], ahead: Callable[[], float] = lambda: 0.0) -> None:
        self.next = next
        self.policy = policy
        self.store = store
        self.admission = admission
        self.flights = admission.flights
        self.predictor = admission.predictor
        self.responses = responses
        self.report = responses.report
        self.clock = responses.clock
        self.url_of = url_of
        self.ahead = ahead

    def __call__(self, context: FetchContext, flight: Flight | None, again: bool = False) -> Response:
        """Forward the request and return the response for its client. ``flight`` is the one that it leads, None when it fetches
        alone. ``again``: it was forwarded before, and is not counted twice."""
        request_time = self._begin(context, again)
        try:
            response = self.next(self._upstream_request(context))
            if (stale := self._cover_response(context, response)) is not None:
                return stale
            if context.whole and not self._read_whole(context, response):
                context.whole = False                    # the next one is forwarded with its range
                self.admission.refuse(context, NotStored.SIZE, flight)
                return self(context, None, again=True)
            if small(response):
                self.admission.announce(context, self._entry(context, response, request_time), flight, response.status)
                response.read(SMALL)
        except GatewayError as error:
            self._purge_posted(context, error)
            if isinstance(error, ClientDisconnected):
                raise
            if not isinstance(error, DeadlineExceeded):
                self.flights.land(flight, FlightState.FAILED, error)
            return self.fail(context, error, own=True)
        entry = context.entry
        if entry is not None and response.status == 304 and context.request.method == "GET":
            return self._freshen(context, entry, response, request_time, flight)
        return self._receive(context, response, request_time, flight)

    def _purge_posted(self, context: FetchContext, error: GatewayError) -> None:
        """Purge the URL of a POST that failed and may have had an effect. It is taken for safe when an answer to one is stored."""
        if context.request.method == "POST" and context.entry is None and not had_no_effect(context.request, error):
            purge(self.store, [own_address(context.request)])

    def _begin(self, context: FetchContext, again: bool = False) -> float:
        """Note the state of the store before the request is forwarded, count the request, and return the time."""
        context.request.head_first = True
        context.number = self.store.number
        context.in_memory = self.store.peek(context.key) is not None
        if not (context.refreshing or again):            # refreshes are counted separately
            self.responses.note(context, context.decision)
        return self.clock()

    def _upstream_request(self, context: FetchContext) -> Request:
        """The request to forward: with validators of the stored answer, and without the client's conditions and range."""
        directives, entry = context.directives, context.entry
        if entry is None and (directives is None or context.alone or directives.range is not None and not context.whole):
            return context.request
        validators = [] if entry is None or context.request.method != "GET" else list(rules.validators(entry))
        return request_copies.edit(context.request, CLIENTS_OWN, validators)

    def _read_whole(self, context: FetchContext, response: Response) -> bool:
        """Read the body of a response out of which a range is cut, if it is stored; False when it is larger than max_object."""
        length = response.header("Content-Length")
        size = len(response.body) if isinstance(response.body, bytes) else int(length) if length.isdigit() else 0
        if size > self.policy.max_object:
            discard_body(response)
            return False
        if response.status != 200 or isinstance(response.body, bytes) or isinstance(
                self._entry(context, response, self.clock()), NotStored):
            return True
        try:
            response.read(self.policy.max_object)
        except BodyTooLarge:
            return False
        return True

    def _freshen(self, context: FetchContext, entry: Entry, response: Response, request_time: float,
                 flight: Flight | None) -> Response:
        """Refresh the stored entry after a 304."""
        discard_body(response)
        if not rules.confirms(entry, response.headers):                  # about another representation than the stored one
            context.entry = None
            return self(context, flight, again=True)
        fresh, whole = rules.freshen(entry, context.request, response.headers, self.policy, request_time=request_time,
                                     response_time=self.clock(), personal=context.personal, ahead=self.ahead())
        fwd = context.decision.fwd
        if isinstance(fresh, NotStored):
            self.admission.refuse(context, fresh, flight)
            whole.headers.append(("Cache-Status", self.report.forward(fwd, 304, context.key, detail=fresh)))
            return whole
        result = self.admission.admit(context, fresh, request_time, flight)
        if isinstance(result, NotStored):
            text = self.report.forward(fwd, 304, context.key, detail=result)
            return self.responses.stored_response(context, fresh, text, aged=False)
        return self.responses.stored_response(context, result, self.report.forward(fwd, 304, context.key, stored=True), aged=False)

    def _receive(self, context: FetchContext, response: Response, request_time: float, flight: Flight | None) -> Response:
        """Store a new response where that is allowed, and return it for the client."""
        body = response.body
        entry = self._entry(context, response, request_time)
        if isinstance(entry, NotStored):
            self.admission.refuse(context, entry, flight, response.status)
            if context.request.method == "POST" and not entry.personal:          # it was not a safe POST, then
                forget(self.store, context.request, response)
            return self.responses.upstream_response(context, response, entry)
        if isinstance(body, bytes):
            result = self.admission.admit(context, entry, request_time, flight)
            if context.directives is not None:
                conditional = answer(entry, context.directives, self.clock())
                if conditional.status != entry.status:
                    conditional.headers += [field for field in response.headers if field[0].lower() == "age"]
                    response = conditional
            return self.responses.upstream_response(context, response, result, entry.status)
        self.admission.announce(context, entry, flight, response.status)
        if flight is not None:
            flight.stream()
        response.body = Tee(body, self.policy.max_object,
                            lambda whole, reason: self._complete(context, entry, request_time, flight, whole, reason))
        result = entry if self.admission.worth_storing(context) else NotStored.USES
        return self.responses.upstream_response(context, response, result)

    def _entry(self, context: FetchContext, response: Response, request_time: float) -> Entry | NotStored:
        """The entry that the response becomes, or why it is not stored."""
        body = response.body
        size = len(body) if isinstance(body, bytes) and response.status != 204 else None
        return rules.entry_of(context.request, response, self.policy, request_time=request_time, response_time=self.clock(),
                              url=self.url_of(context.request), personal=context.personal, size=size, ahead=self.ahead())

    def _complete(self, context: FetchContext, entry: Entry, request_time: float, flight: Flight | None, body: bytes | None,
                  reason: str) -> None:
        """Store a streamed response when its stream has ended. ``body`` is None for one that is truncated."""
        length = next((value for name, value in entry.headers if name.lower() == "content-length"), None)
        if reason == "size":
            self.admission.refuse(context, NotStored.SIZE, flight)
        elif body is None or length is not None and int(length) != len(body):
            self.admission.refuse_truncated(context, flight)
        else:
            entry.body = body
            if length is None and entry.status != 204:
                entry.headers.append(("Content-Length", str(len(body))))
            self.admission.admit(context, entry, request_time, flight)

    # Errors

    def covers(self, context: FetchContext, *, has_answer: bool) -> bool:
        """May the stored answer be served, stale, in place of an error?"""
        window = context.directives.stale_if_error if context.directives is not None else None
        entry = None if context.refreshing else context.entry
        return entry is not None and may_replace_error(entry, self.clock(), has_answer=has_answer, window=window)

    def failing(self, context: FetchContext) -> bool:
        """Has the upstream just failed in a way for which the stale answer may be served?"""
        return any(self.predictor.failing(context.group, has_answer) and self.covers(context, has_answer=has_answer)
                   for has_answer in (True, False))

    def fail(self, context: FetchContext, error: GatewayError, *, own: bool) -> Response:
        """Return the stale answer in place of an error, or raise the error where that is not allowed. ``own``: this request
        failed, not the one that it followed."""
        has_answer = not isinstance(error, (UpstreamError, DeadlineExceeded))
        if context.entry is None or error.status < 500 or not self.covers(context, has_answer=has_answer):
            raise error
        self.predictor.note_failure(context.group, has_answer)
        if own:
            return self.responses.replacement(context, context.entry, 0, error.code)
        return self.responses.stale(context, context.entry, error.code)

    def _cover_response(self, context: FetchContext, response: Response) -> Response | None:
        """The stale answer in place of a response with an error status; None where that is not allowed."""
        entry = context.entry
        if entry is None or response.status not in rules.ERRORS or not self.covers(context, has_answer=True):
            return None
        discard_body(response)
        self.predictor.note_failure(context.group, True)
        return self.responses.replacement(context, entry, response.status, "the upstream failed")

    # Other methods

    def head(self, context: FetchContext) -> Response:
        """Forward a HEAD that the cache cannot answer; its response freshens or invalidates the stored answer (section 4.3.5)."""
        request_time, entry = self._begin(context), context.entry
        try:
            response = self.next(context.request)
        except ClientDisconnected:
            raise
        except GatewayError as error:
            return self.fail(context, error, own=True)
        if (stale := self._cover_response(context, response)) is not None:
            return stale
        if entry is not None and response.status == 200:
            if rules.same_answer(entry, response.headers):
                get = context.request.copy()
                get.method = "GET"
                fresh, _ = rules.freshen(entry, get, response.headers, self.policy, request_time=request_time,
                                         response_time=self.clock(), personal=context.personal, ahead=self.ahead())
                if not isinstance(fresh, NotStored):
                    self.admission.admit(context, fresh, request_time, None)
            else:
                self.admission.refuse(context, NotStored.CHANGED, None)
        return self.responses.upstream_response(context, response, NotStored.HEAD)

    def keep_posted(self, context: FetchContext, response: Response) -> None:
        """Store a response to POST for later GETs if its Content-Location says that it answers those (RFC 9110 section 9.3.3)."""
        body = response.body
        location = next((value for name, value in response.headers if name.lower() == "content-location"), None)
        url = self.url_of(context.request)
        if location is None or response.status != 200 or not isinstance(body, bytes) or resolve(url, location) != url:
            return
        get, now = context.request.copy(), self.clock()
        get.method = "GET"
        entry = rules.entry_of(get, response, self.policy, request_time=now, response_time=now, url=url, personal=context.personal,
                               size=len(body), ahead=self.ahead())
        if not isinstance(entry, NotStored) and now < entry.expires and not entry.flags & GUESS:
            context.number = self.store.number
            self.admission.admit(context, entry, now, None)

    def __repr__(self) -> str:
        return f"Origin({self.admission!r})"


def small(response: Response) -> bool:
    """Is this a stream with a small Content-Length? It is read before the head is sent, so that a truncated one is an error."""
    length = "" if isinstance(response.body, bytes) else response.header("Content-Length")
    return length.isdigit() and int(length) <= SMALL


def discard_body(response: Response) -> None:
    """Discard the body and close the stream."""
    if not isinstance(response.body, bytes):
        response.body.close()
