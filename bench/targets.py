"""What is to be reached, as a table, and how far a measurement is from it."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

Place = tuple[str, str, str]                                 # case, server, and the number of its samples


class Target(NamedTuple):
    """``value`` over ``against`` (another number, or a constant) is to be ``at_least``, or ``at_most``."""

    work: str
    against: str
    value: Place
    other: Place | float
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, ratio: float) -> bool:
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    @property
    def goal(self) -> str:
        return f"at least {self.at_least:g} x" if self.at_least is not None else f"at most {self.at_most:g} x"


class Ratio(NamedTuple):
    """Of the medians, and the lowest and the highest of a single round."""

    value: float
    low: float
    high: float


def rates(case: str, server: str, other: str) -> tuple[Place, Place]:
    return (case, server, "rate"), (case, other, "rate")


COMPILED = (
    Target("answer from memory, compiled", 'Starlette + uvicorn "hello"', *rates("hello", "gateway-compiled", "starlette"),
           at_least=2.2),
    Target("hit of the cache, compiled", 'Starlette + uvicorn "hello"', ("hit", "gateway-compiled", "rate"),
           ("hello", "starlette", "rate"), at_least=2.0),
    Target("proxy 1 KB, 64 connections, compiled", "Envoy", *rates("json", "gateway-compiled", "envoy"), at_least=1.0),
    Target("proxy 1 KB, 64 connections, compiled", "aiohttp", *rates("json", "gateway-compiled", "aiohttp"), at_least=3.0),
    Target("POST 1 KB JSON, proxied, compiled", "Envoy", *rates("echo", "gateway-compiled", "envoy"), at_least=0.75),
    Target("compose three, compiled", "aiohttp", *rates("compose", "gateway-compiled", "aiohttp"), at_least=3.2),
    Target("100 KB bodies, proxied, compiled", "aiohttp", *rates("100k", "gateway-compiled", "aiohttp"), at_least=1.3),
    Target("Flask view with `requests.get`, compiled", "the same view on stock Gunicorn gevent",
           *rates("view", "gateway-compiled", "flask-gevent"), at_least=5.0),
)
TARGETS = (
    Target("answer from memory", 'Starlette + uvicorn "hello"', *rates("hello", "gateway", "starlette"), at_least=1.3),
    Target("hit of the cache", 'Starlette + uvicorn "hello"', ("hit", "gateway", "rate"), ("hello", "starlette", "rate"),
           at_least=1.3),
    Target("proxy 1 KB, 64 connections", "aiohttp", *rates("json", "gateway", "aiohttp"), at_least=2.2),
    Target("proxy 1 KB, 64 connections", "Envoy, first", *rates("json", "gateway", "envoy"), at_least=0.75),
    Target("proxy 1 KB, 64 connections", "Envoy, then", *rates("json", "gateway", "envoy"), at_least=1.0),
    Target("compose three", "aiohttp", *rates("compose", "gateway", "aiohttp"), at_least=2.0),
    Target("POST 1 KB JSON, proxied", "aiohttp", *rates("echo", "gateway", "aiohttp"), at_least=1.5),
    Target("100 KB bodies, proxied", "aiohttp", *rates("100k", "gateway", "aiohttp"), at_least=1.5),
    Target("Flask view with `requests.get`", "the same view on stock Gunicorn gevent",
           *rates("view", "gateway", "flask-gevent"), at_least=2.0),
    Target("Flask view with `requests.get`", "Quart + aiohttp on hypercorn", *rates("view", "gateway", "quart"), at_least=1.0),
    Target("50 ms upstream, 256 connections", "the ideal 5,120/s", ("slow-256", "gateway", "rate"), 5120.0, at_least=0.95),
    Target("50 ms upstream, 1,000 connections", "aiohttp", *rates("slow-1000", "gateway", "aiohttp"), at_least=1.5),
    Target("bystander p99 while an upstream hangs", "the same on an idle gateway",
           ("bystanders", "gateway", "p99_ms"), ("bystanders", "gateway", "alone_p99_ms"), at_most=1.3),
    Target("idle keep-alive connection", "aiohttp's memory for one",
           ("idle", "gateway", "bytes_each"), ("idle", "aiohttp", "bytes_each"), at_most=1.2),
    Target("10,000 routes", "10 routes", *rates("routes", "gateway-10000-routes", "gateway-10-routes"), at_least=0.95),
    Target("two workers on two cores, view", "one", *rates("workers-view", "gateway-2-workers", "gateway"), at_least=1.7),
    *COMPILED,
)


def samples(results: dict[str, Any], case: str, server: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = results["samples"].get(case, {}).get(server, [])
    return found


def middle(results: dict[str, Any], case: str, server: str, key: str) -> float | None:
    """The median of a number over the rounds that count, None without any."""
    found = [sample[key] for sample in samples(results, case, server)]
    return median(found) if found else None


def ratio(results: dict[str, Any], value: Place, other: Place | float) -> Ratio | None:
    """None when one of the two was not measured."""
    above = middle(results, *value)
    below = middle(results, *other) if isinstance(other, tuple) else other
    if above is None or not below:
        return None
    rounds = {sample["round"]: sample[value[2]] for sample in samples(results, *value[:2])}
    if isinstance(other, tuple):
        beside = {sample["round"]: sample[other[2]] for sample in samples(results, *other[:2])}
        single = [rounds[number] / beside[number] for number in rounds if beside.get(number)]
    else:
        single = [each / other for each in rounds.values()]
    single = single or [above / below]
    return Ratio(above / below, min(single), max(single))
