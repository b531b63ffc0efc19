"""Thousands of seconds on a virtual clock: the real attempt loop, pools and names against instances that fail in every way, alone
and behind the real coalescing of a cache.

A simulation is one seed. Whatever happens in it, INVARIANTS hold; the same seed gives the same events, and each fault that is
planted in the code is found.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest

from gateway.backoff import Backoff
from gateway.cache.coalesce import Flight, Flights
from gateway.cache.step import CacheStep
from gateway.config import CacheSettings
from gateway.config import UpstreamSettings as Settings
from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.message import Attempt, Call, Request, Response
from gateway.telemetry.metrics import Registry
from gateway.upstream import instance as instance_file
from gateway.upstream.balancer import Balancer
from gateway.upstream.client import Upstream
from gateway.upstream.dns import Resolver
from gateway.upstream.instance import Instance
from gateway.upstream.pool import Pool
from gateway.upstream.retry import STOP, Outcome, Resend, Result, Retry, Stop, decide
from tests.cache.asking import DictStore
from tests.clocks import VirtualClock
from tests.compiled import COMPILED
from tests.upstream.simulated import EPSILON, Machine, Network

pytestmark = pytest.mark.skipif(COMPILED, reason="the network takes the place of a class that is compiled")
SECONDS = 1000.0
RATE = 3.0                                               # calls a second
BURST = 30                                               # calls at once, now and then
MAX_CONNECTIONS, IDLE_TIMEOUT, MAX_AGE = 3, 4.0, 10.0
BACK_WITHIN = 30.0                                       # seconds: the longest pause thrice, as a trial may say nothing


def patient(outcome: Outcome, number: int, now: float) -> Retry | Stop:
    """At most two attempts, with a pause before the second."""
    return STOP if number == 2 or isinstance(decide(outcome, number, now), Stop) else Retry(0.1)


POLICIES: dict[str, dict[str, Any]] = {
    "at once": {}, "patient": {"decide": patient, "failures": {503}}}


class Simulation:
    """Calls of an upstream with three instances, one of which is two addresses of a name."""

    def __init__(self, seed: int, balance: str, policy: str) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.network = Network(self.clock, self.random, max_connections=MAX_CONNECTIONS, idle_timeout=IDLE_TIMEOUT, max_age=MAX_AGE)
        self.machines = [self.network.machine(f"10.0.0.{number}") for number in range(1, 5)]
        self.network.names = {"shop.test": ["10.0.0.3", "10.0.0.4"]}
        settings = Settings(instances=("http://10.0.0.1", "http://10.0.0.2", "http://shop.test"), balance=balance,
                            max_connections=MAX_CONNECTIONS, idle_timeout=f"{IDLE_TIMEOUT}s", max_connection_age=f"{MAX_AGE}s",
                            connect_timeout="300ms", pool_timeout="500ms", timeout="3s", read_timeout="2s", dns_ttl="20s")
        self.upstream = Upstream("shop", settings, Resolver(20.0, self.network.look_up, self.clock), self.clock,
                                 open=self.network.open, random=self.random.uniform, **POLICIES[policy])
        self.most_attempts = 2 if policy == "patient" else 2 * len(self.upstream.instances)
        for instance in self.upstream.instances:
            instance.subscribe(self.hear)
        self.calls: list[Call] = []
        self.outcomes: dict[Attempt, list[Outcome]] = {}
        self.starts: dict[Attempt, float] = {}
        self.quiet = False                               # no calls begin any more
        self.running: set[gevent.Greenlet] = set()
        self.results: Counter[str] = Counter()

    def hear(self, attempt: Attempt, outcome: Outcome, begun: float, now: float) -> None:
        self.outcomes.setdefault(attempt, []).append(outcome)
        self.starts[attempt] = begun
        self.network.note("outcome", attempt.instance, outcome.result.name, outcome.reason)
        self.network.check(begun <= now, "an attempt ended before it began")

    def run(self, seconds: float = SECONDS) -> Simulation:
        self.clock.call_later(0.0, self._next_call)
        self.clock.call_later(50.0, self._next_outage)
        self.clock.call_later(35.0, self._change_name)
        self.clock.run(seconds)
        self.quiet = True
        for machine in self.machines:
            if not machine.up:
                machine.come_back()
        self.clock.run(60.0)
        return self

    def _next_call(self) -> None:
        if self.quiet:
            return
        for _ in range(BURST if self.random.random() < 0.01 else 1):
            greenlet = gevent.spawn(self._call)
            self.running.add(greenlet)
            greenlet.rawlink(self.running.discard)
        self.clock.call_later(self.random.expovariate(RATE), self._next_call)

    def _next_outage(self) -> None:
        if self.quiet:
            return
        machine = self.random.choice(self.machines)
        if machine.up:
            machine.go_down()
            self.clock.call_later(self.random.uniform(1.0, 40.0), self._end_outage, machine)
        self.clock.call_later(self.random.expovariate(1 / 40.0), self._next_outage)

    def _end_outage(self, machine: Any) -> None:
        if not machine.up:
            machine.come_back()
            if self._in_use(machine):
                self.clock.call_later(BACK_WITHIN, self._look_for, machine, machine.outages, self.clock.now())

    def _look_for(self, machine: Machine, outages: int, back: float) -> None:
        """An address that is up again gets calls, unless it is down once more, or has left its name, or there are no calls."""
        self.network.check(self.quiet or machine.outages > outages or machine.last_request > back or not self._in_use(machine),
                           f"{machine.address} has been up for {BACK_WITHIN} s and got no call")

    def _in_use(self, machine: Machine) -> bool:
        endpoints = self.upstream.instances[2].connector.endpoints
        return machine in self.machines[:2] or machine.address in {endpoint.sockaddr[0] for endpoint in endpoints}

    def _change_name(self) -> None:
        if self.quiet:
            return
        choice = self.random.choice([["10.0.0.3", "10.0.0.4"], ["10.0.0.3"], ["10.0.0.4"], []])
        self.network.name_server = bool(choice)
        self.network.names["shop.test"] = choice or self.network.names["shop.test"]
        self.clock.call_later(self.random.expovariate(1 / 30.0), self._change_name)

    def _call(self) -> None:
        """One call, of a caller that is killed now and then."""
        killer = gevent.getcurrent().kill if self.random.random() < 0.01 else None
        timer = None if killer is None else self.clock.call_later(self.random.uniform(0.0, 0.2), lambda: killer(block=False))
        deadline = Deadline(self.random.choice([0.05, 0.5, 2.0, 10.0]), self.clock.now)
        try:
            response = self._ask(deadline)
            self.network.check(self.clock.now() <= deadline.at + EPSILON, "an answer came after the deadline")
            if not isinstance(response.body, bytes):
                self._read(response.body)
            self.results[str(response.status)] += 1
        except GatewayError as error:
            self.network.check(self.clock.now() <= deadline.at + EPSILON or error.flag in ("UT", "UX", "UP"),
                               f"{error!r} came after the deadline")
            self.results[error.flag] += 1
        except gevent.GreenletExit:
            self.results["killed"] += 1
        finally:
            if timer is not None:
                timer.close()

    def _ask(self, deadline: Deadline) -> Response:
        method = self.random.choice(["GET", "GET", "GET", "PUT", "POST"])
        return self._send(method, b"x" * 100 if method != "GET" else None, deadline)

    def _send(self, method: str, body: bytes | None, deadline: Deadline) -> Response:
        call = Call(method, "/", [("X-Deadline", f"{deadline.at:.9f}")], body, deadline=deadline)
        self.calls.append(call)
        return self.upstream.send(call)

    def _read(self, stream: Any) -> bytes:
        try:
            return b"" if self.random.random() < 0.2 else b"".join(stream)
        finally:
            stream.close()

    def reasons(self) -> set[str]:
        return {outcome.reason for outcomes in self.outcomes.values() for outcome in outcomes}

    # What holds

    def problems(self) -> list[str]:
        found = list(self.network.violations)
        if self.running:
            found.append(f"{len(self.running)} calls never ended")
        for call in self.calls:
            found += self._problems_of(call)
        attempts = sum(len(call.attempts) for call in self.calls)
        if attempts != sum(map(len, self.outcomes.values())):
            found.append(f"{attempts} attempts, {sum(map(len, self.outcomes.values()))} outcomes")
        for instance in self.upstream.instances:
            if instance.in_flight or instance.pool.open or instance.pool.idle or instance.pool.waiting:
                found.append(f"left over: {instance!r}")
        return found

    def _problems_of(self, call: Call) -> list[str]:
        found = []
        if len(call.attempts) > self.most_attempts:
            found.append(f"{len(call.attempts)} attempts")
        excluded = set()
        for attempt in call.attempts:
            outcomes = self.outcomes.get(attempt, [])
            if len(outcomes) != 1:
                found.append(f"{attempt!r} has the outcomes {outcomes}")
                continue
            if attempt.instance in excluded:
                found.append(f"{attempt!r} although it was tried")
            if self.starts[attempt] > call.deadline.at:
                found.append(f"{attempt!r} after the deadline")
            if outcomes[0].resend is Resend.OTHER:
                excluded.add(attempt.instance)
            if (outcomes[0].result is Result.SUCCESS) != (attempt.status not in (0, *self.upstream.failures)):
                found.append(f"{attempt!r} is a {outcomes[0].result}")
        return found


class Cached(Simulation):
    """The same upstream behind a cache, whose coalescing lets one request of several for an address go on."""

    def __init__(self, seed: int, balance: str, policy: str) -> None:
        super().__init__(seed, balance, policy)
        self.step = CacheStep(self._fetch, CacheSettings(), DictStore(), counter=Registry().counter, clock=self.clock.now,
                              ahead=lambda: 0.0, flights=Flights(self.clock))
        self.requests = 0

    def _ask(self, deadline: Deadline) -> Response:
        self.requests += 1
        return self.step(Request("GET", f"/{self.random.randrange(5)}", [], host="shop.test", deadline=deadline))

    def _fetch(self, request: Request) -> Response:
        return self._send(request.method, None, request.deadline)

    def problems(self) -> list[str]:
        flying = self.step.fetch.flights.flying
        return [*super().problems(), *(f"{flight!r} has not landed" for flight in flying.values())]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("balance", ["round-robin", "least-requests"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_invariants_hold(seed, balance, policy):
    simulation = Simulation(seed, balance, policy).run()
    assert simulation.problems() == []
    assert {"200", "503", "UT", "UX", "UP", "DT", "killed"} <= set(simulation.results)         # all of it happened
    assert {"", "UF", "UC", "UT", "UO", "UP", "DT"} <= simulation.reasons()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_invariants_hold_behind_a_cache(policy):
    simulation = Cached(1, "round-robin", policy).run()
    assert simulation.problems() == []
    assert len(simulation.calls) < simulation.requests / 1.5 and {"200", "503", "killed"} <= set(simulation.results)


def test_the_same_seed_is_the_same_simulation():
    one, other = [Simulation(7, "round-robin", "patient").run(200.0) for _ in range(2)]
    assert one.network.trace == other.network.trace and one.results == other.results
    assert one.network.trace != Simulation(8, "round-robin", "patient").run(200.0).network.trace


def wrap(monkeypatch, owner: type, name: str, change: Callable[..., Any]) -> None:
    """Replace a method by ``change(method, self, *arguments)``."""
    method = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *arguments: change(method, self, *arguments))


def settle_twice(settle, attempt, outcome, begun, now):
    settle(attempt, outcome, begun, now)
    settle(attempt, outcome, begun, now)


def forget(method, *arguments):
    """Do nothing."""


def keep_in_flight(release, instance, connection, reusable):
    release(instance, connection, reusable)
    instance.in_flight += connection is not None and not reusable


def keep_slot(drop, pool):
    if pool.waiting:
        drop(pool)


def never_expire(give, pool, connection):
    give(pool, connection)
    connection.expires = float("inf")


def ignore_age(add, pool, connection):
    add(pool, connection)
    connection.retires = float("inf")
    return connection


def open_one_more(take, pool, *arguments):
    if pool.open == pool.maximum:
        pool.open -= 1
    return take(pool, *arguments)


def include_all(choose, balancer, now, exclude=()):
    return choose(balancer, now)


def go_on(retries, upstream, call, outcome, number, excluded):
    return retries(upstream, call, outcome, 1, excluded)


def wait_past_the_deadline(retries, upstream, call, *arguments):
    again = retries(upstream, call, *arguments)
    if again:
        upstream.clock.sleep(2.0)
    return again


def wait_for_ever(wait, flight, deadline, *patience):
    return wait(flight, Deadline(100.0, deadline.clock))


def pause_for_ever(fail, backoff, begun, now):
    fail(backoff, begun, now)
    backoff.until = float("inf")


FAULTS: dict[str, tuple[type, str, Callable[..., Any], str]] = {
    "an outcome too many": (Instance, "settle", settle_twice, "has the outcomes"),
    "no outcome": (Instance, "settle", forget, "has the outcomes"),
    "in flight for ever": (Instance, "release", keep_in_flight, "left over"),
    "a slot that is lost": (Pool, "drop", keep_slot, "left over"),
    "an idle timeout that does not hold": (Pool, "give", never_expire, "unused for"),
    "an age that does not hold": (Pool, "add", ignore_age, "s old is used"),
    "one connection too many": (Pool, "take", open_one_more, "connections to"),
    "an exclusion that does not hold": (Balancer, "choose", include_all, "although it was tried"),
    "no end of attempts": (Upstream, "_retries", go_on, "attempts"),
    "a pause past the deadline": (Upstream, "_retries", wait_past_the_deadline, "after the deadline"),
    "a wait of a follower past its deadline": (Flight, "wait", wait_for_ever, "after the deadline"),
    "an instance that never comes back": (Backoff, "fail", pause_for_ever, "got no call"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(monkeypatch, fault):
    owner, name, change, problem = FAULTS[fault]
    if name == "settle":                                 # composed for each instance when somebody subscribes
        each_of = instance_file.each_of
        monkeypatch.setattr(instance_file, "each_of", lambda subscribers: partial(change, each_of(subscribers)))
    else:
        wrap(monkeypatch, owner, name, change)
    kind = Cached if owner is Flight else Simulation
    problems = kind(3, "round-robin", "patient").run(400.0).problems()
    assert any(problem in found for found in problems), problems[:10]
