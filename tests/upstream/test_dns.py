"""The cache in front of the name server, on a clock of its own."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent.event import Event

from gateway.upstream.dns import NEGATIVE_TTL, LookupFailed, Resolver, SocketAddress
from tests.clocks import ManualClock

ONE = SocketAddress(socket.AF_INET, ("10.0.0.1", 80))
TWO = SocketAddress(socket.AF_INET6, ("fd00::2", 80, 0, 0))


class Names:
    """A name server: what it answers next, and how often it was asked. ``gate`` holds its answers back."""

    def __init__(self, *endpoints: SocketAddress) -> None:
        self.endpoints = list(endpoints)
        self.lookups: list[tuple[str, int]] = []
        self.error: Exception | None = None
        self.gate = Event()
        self.gate.set()
        self.clock = ManualClock()

    def __call__(self, host: str, port: int) -> list[tuple]:
        self.lookups.append((host, port))
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return [(endpoint.family, socket.SOCK_STREAM, 6, "", endpoint.sockaddr) for endpoint in self.endpoints]

    def resolver(self, ttl: float = 30.0) -> Resolver:
        return Resolver(ttl, self, self.clock)


@pytest.mark.parametrize("host, endpoint", [
    ("127.0.0.1", SocketAddress(socket.AF_INET, ("127.0.0.1", 80))), ("::1", SocketAddress(socket.AF_INET6, ("::1", 80, 0, 0))),
    ("10.1", None), ("1.2.3.4.5", None), ("shop.test", None), ("", None), ("\xe9", None), ("a\0b", None),
])
def test_only_names_are_looked_up(host, endpoint):
    names = Names(ONE)
    assert names.resolver().resolve(host, 80) == [endpoint or ONE]
    assert len(names.lookups) == (endpoint is None)


def test_all_endpoints_are_given_in_order():
    assert Names(TWO, ONE).resolver().resolve("shop.test", 80) == [TWO, ONE]


def test_an_answer_is_used_until_its_time_is_over():
    names = Names(ONE)
    resolver = names.resolver(30)
    for now, lookups in ((1000, 1), (1029.9, 1), (1030, 2), (1059, 2), (1061, 3)):
        names.clock.time = now
        resolver.resolve("shop.test", 80)
        assert len(names.lookups) == lookups, now
    resolver.resolve("shop.test", 81)
    assert names.lookups[-1] == ("shop.test", 81)


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"),
                                   OSError("down")])
def test_a_failure_is_remembered_for_a_moment(error):
    names = Names(ONE)
    names.error = error
    resolver = names.resolver()
    for _ in range(3):
        with pytest.raises(LookupFailed, match="shop.test"):
            resolver.resolve("shop.test", 80)
    assert len(names.lookups) == 1
    names.clock.time += NEGATIVE_TTL
    names.error = None
    assert resolver.resolve("shop.test", 80) == [ONE]


def test_an_empty_answer_is_a_failure():
    with pytest.raises(LookupFailed, match="no address"):
        Names().resolver().resolve("shop.test", 80)


def test_old_endpoints_are_used_while_the_name_server_fails():
    names = Names(ONE)
    resolver = names.resolver(30)
    resolver.resolve("shop.test", 80)
    names.error = OSError("down")
    names.clock.time += 31
    for _ in range(3):
        assert resolver.resolve("shop.test", 80) == [ONE]
    assert len(names.lookups) == 2                         # it is asked again, but not each time
    names.error, names.endpoints = None, [TWO]
    names.clock.time += NEGATIVE_TTL
    assert resolver.resolve("shop.test", 80) == [TWO]


def test_old_endpoints_are_used_while_the_name_server_is_slow():
    names = Names(ONE)
    resolver = names.resolver(30)
    resolver.resolve("shop.test", 80)
    names.clock.time += 31
    names.gate.clear()
    names.endpoints = [TWO]
    assert resolver.resolve("shop.test", 80, 0.001) == [ONE]
    names.gate.set()
    assert resolver.resolve("shop.test", 80, 5) == [TWO]


def test_a_slow_first_answer_is_no_answer():
    names = Names(ONE)
    names.gate.clear()
    resolver = names.resolver()
    assert resolver.resolve("shop.test", 80, 0.001) is None
    names.gate.set()
    assert resolver.resolve("shop.test", 80, 5) == [ONE]
    assert len(names.lookups) == 1


def test_many_who_ask_are_one_question():
    names = Names(ONE)
    names.gate.clear()
    resolver = names.resolver()
    askers = [gevent.spawn(resolver.resolve, "shop.test", 80) for _ in range(20)]
    gevent.idle()
    askers[0].kill()                                     # the one who came first takes nothing from the others
    names.gate.set()
    gevent.joinall(askers, timeout=30)
    assert [asker.value for asker in askers[1:]] == [[ONE]] * 19
    assert len(names.lookups) == 1


def test_a_defect_in_the_lookup_is_not_waited_for_forever():
    def broken(host: str, port: int) -> list:
        raise ZeroDivisionError

    resolver = Resolver(30, broken)
    assert resolver.resolve("shop.test", 80, 5) is None
    assert "0 being looked up" in repr(resolver)


def test_the_systems_resolver_knows_localhost():
    endpoints = Resolver(30).resolve("localhost", 80, 5)
    assert endpoints and {endpoint.sockaddr[0] for endpoint in endpoints} <= {"127.0.0.1", "::1"}
