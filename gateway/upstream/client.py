"""An upstream: a named service with several instances, which answers calls.

``send`` is the attempt loop. Each turn chooses an instance, excluding those already tried, renders the request for it and makes one
attempt. The attempt has one Outcome, which is delivered to the subscribers of its instance; ``decide`` (retry.py) takes it and says
whether there is another turn.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from random import uniform

from ..config import UpstreamSettings as Settings
from ..errors import ConfigError, GatewayError, UpstreamError, UpstreamTimeout, with_cause
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.send_queue import LARGEST
from ..message import Attempt, Body, Call, Response
from ..values import Address, parse_instance
from .balancer import RULES, Balancer
from .connecting import Connector, Open
from .dns import Resolver
from .exchange import Exchange, note
from .instance import Instance
from .limit import Limit
from .pool import Pool
from .rendering import render_head
from .retry import IDEMPOTENT, SUCCESS, Decide, Outcome, Resend, Stop, decide, judge, judge_status
from .sending import small_body
from .tls import build_context, check_name

NO_INSTANCES: tuple[Instance, ...] = ()


class Upstream:
    """``send`` makes a Call. Building one opens nothing, so that it may happen before a fork. ``decide`` is the policy for retries,
    ``failures`` are the statuses that count as failures; ``clock``, ``resolver``, ``open`` and ``random`` are the world outside.
    Raises ConfigError and ValueError for settings that cannot be used."""

    def __init__(self, name: str, settings: Settings, resolver: Resolver | None = None, clock: MonotonicClock = CLOCK, *,
                 decide: Decide = decide, failures: Collection[int] = frozenset(), open: Open | None = None,
                 random: Callable[[float, float], float] = uniform) -> None:
        self.name = name
        self.clock = clock
        self.decide = decide
        self.failures = failures
        self.settings = settings
        self.resolver = resolver or Resolver(settings.dns_ttl, clock=clock)
        addresses = [parse_instance(url) for url in settings.instances]
        try:
            context = self._context(addresses)
        except ConfigError as error:
            raise with_cause(ConfigError([f'upstream "{name}": {problem}' for problem in error.problems], error.source), error)
        self.instances = [
            Instance(url,
                     Connector(address, self.resolver, settings.connect_timeout, context, settings.tls.server_name, clock, open),
                     Pool(settings.max_connections, settings.idle_timeout, settings.max_connection_age, clock, random),
                     settings.pool_timeout)
            for url, address in zip(settings.instances, addresses)]
        self.balancer = Balancer(self.instances, RULES[settings.balance])

    def send(self, call: Call) -> Response:
        """The answer to ``call``. Raises UpstreamError and its kinds, DeadlineExceeded, BadRequest for what cannot be sent, and
        what reading the call's body raises. A stream that is its body must be closed, and so must the connection behind a 101
        (``tunnel``), which is the caller's."""
        body = call.body
        if body is not None:
            body = small_body(call, call.read_timeout or self.settings.read_timeout, self.clock)
        same, exclude, number = None, NO_INSTANCES, 1
        outcome: Outcome | None
        while True:
            start = self.clock.now()
            instance = same or self.balancer.choose(start, exclude)
            request = render_head(call, body, instance.authority)
            try:
                response = self._attempt(call, request, body, instance, same is not None, not exclude, start)
                if response.status not in self.failures:
                    return response
                outcome = judge_status(response.status, call.method, is_consumed(body))
                if not self._retries(call, outcome, number, len(exclude) + 1):
                    return response
                if not isinstance(response.body, bytes):
                    response.body.close()
            except UpstreamError as error:
                outcome = error.outcome
                if not self._retries(call, outcome, number, len(exclude) + 1):
                    raise
            same = instance if outcome.resend is Resend.SAME else None
            exclude = exclude if same else (*exclude, instance)
            number += 1

    def close(self) -> None:
        """Close all unused connections; those in use are closed when they come back."""
        for instance in self.instances:
            instance.close()

    def _context(self, addresses: list[Address]) -> ssl.SSLContext | None:
        """The TLS context of all https instances. Raises ConfigError for a name that TLS cannot ask for."""
        tls = self.settings.tls
        names = [tls.server_name or address.host for address in addresses if address.scheme == "https"]
        if not names:
            return None
        context = build_context(tls)
        for name in names:
            check_name(context, name)
        return context

    def _attempt(self, call: Call, request: bytes, body: bytes | Body | None, instance: Instance, fresh: bool, patient: bool,
                 start: float) -> Response:
        attempt = Attempt(self.name, instance.name)
        call.attempts.append(attempt)
        timeout = self.settings.timeout if call.timeout is None else call.timeout
        limit = Limit(call.deadline, timeout, lambda: UpstreamTimeout(f"no answer within {timeout:g} s"), self.clock)
        exchange = None
        instance.in_flight += 1
        try:
            may_post = instance.plain and body is None and call.method in IDEMPOTENT and len(request) <= LARGEST
            connection = instance.connection(call, limit, fresh, not may_post, patient)
            attempt.reuse = connection.requests > 0
            exchange = Exchange(connection, limit, call.read_timeout or self.settings.read_timeout, instance.release, attempt)
            exchange.send(request, body, may_post)
            head = exchange.read_head(call)
            attempt.status = head.status
            attempt.seconds = (now := self.clock.now()) - start
            outcome = judge_status(head.status, call.method, is_consumed(body)) if head.status in self.failures else SUCCESS
            instance.settle(attempt, outcome, start, now)
            if head.status == 101:
                head.tunnel = exchange.detach()
                return head
            connection.keep = head.idle
            head.body = exchange.read_body(head, not call.head_first)
            return head
        except BaseException as error:
            try:
                if not attempt.status:
                    now = self.clock.now()
                    attempt.seconds = now - start
                    outcome = judge(error, exchange is not None, call.method, is_consumed(body))
                    if isinstance(error, UpstreamError):
                        error.outcome = outcome
                    instance.settle(attempt, outcome, start, now)
                if isinstance(error, GatewayError):
                    note(error, attempt)
            finally:
                if exchange is None:
                    instance.in_flight -= 1
                else:
                    exchange.finish(False)
            raise

    def _retries(self, call: Call, outcome: Outcome | None, number: int, exclusions: int) -> bool:
        """Whether another attempt follows on that of this ``number``, after the pause that ``decide`` asks for. ``exclusions``
        instances are not tried again. Without an outcome the answer had begun."""
        if outcome is None or outcome.resend is Resend.NOWHERE:
            return False
        if outcome.resend is Resend.OTHER and exclusions == len(self.instances):
            return False
        now = self.clock.now()
        retry = self.decide(outcome, number, now)
        if isinstance(retry, Stop) or now + retry.after > call.deadline.at:
            return False
        if retry.after:
            self.clock.sleep(retry.after)
        return True

    def __repr__(self) -> str:
        return f"Upstream({self.name}, {self.balancer!r})"


def is_consumed(body: bytes | Body | None) -> bool:
    """Has some of the body been read, so that it cannot be sent again?"""
    return isinstance(body, Body) and body.is_started
