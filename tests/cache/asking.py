"""The step of the cache with a real store and an upstream made of functions; its clock stands still unless a test moves it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import gevent

from gateway.cache.coalesce import Flights, WaitLimits
from gateway.cache.step import CacheStep
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore
from gateway.config import CacheSettings as Policy
from gateway.deadline import Deadline
from gateway.message import Request, Response
from gateway.telemetry.metrics import Registry
from tests.waiting import SAFETY, until


class Stream:
    """A body that comes in pieces; an exception among them is raised."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.closed = False

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self):
        self.closed = True


class Got:
    """An answer whose body was taken: ``text``."""

    def __init__(self, response):
        self.status, self.headers, self.body, self.reason = response.status, response.headers, response.body, response.reason
        self.header, self.header_list = response.header, response.header_list
        self.text = response.body
        if not isinstance(response.body, bytes):
            try:
                self.text = b"".join(response.body)
            finally:
                response.body.close()


class DictStore:
    """What the step needs of a store, in a dictionary; ``puts`` and ``seconds`` are the number of puts, and for how long the last
    one is of use. ``made(variants)`` is what the store makes of what is put, None where it was purged meanwhile. ``elsewhere``:
    another worker has each lease."""

    addresses, number, puts, seconds, elsewhere = None, 0, 0, 0.0, False
    made = staticmethod(lambda variants: variants)

    def __init__(self):
        self.variants = {}

    def get(self, key, owner=None):
        return self.variants.get(key)

    peek = get

    def put(self, key, variants, keep, begun, owner=None):
        if (made := self.made(variants)) is not None:
            self.puts, self.seconds = self.puts + 1, keep
            self.variants[key] = made
        return made

    def delete(self, key):
        self.variants.pop(key, None)

    def owner(self, route):
        return None

    def lease(self, key, seconds):
        return None if self.elsewhere else SimpleNamespace(extend=lambda seconds: None, release=lambda stored: None)

    def is_leased(self, key):
        return self.elsewhere

    def wait(self, key, seconds, lease="", demand=None):
        return None


class Seam:
    """The store as the step has it: a test may put a method of its own here."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)


class World:
    """``answer`` is a function of the request, or a Response to be copied; ``seen`` are the requests that went upstream.
    ``seam`` is the ``store`` as the step has it."""

    def __init__(self):
        self.offset = 0.0
        self.base = time.time()
        self.seen = []
        self.answer = ok()
        self.store = HttpStore(MemoryTier(2 ** 22))
        self.registry = Registry()
        self.step = None

    def clock(self):
        return self.base + self.offset

    def upstream(self, request):
        self.seen.append(request)
        answer = self.answer
        if callable(answer):
            return answer(request)
        return Response(answer.status, list(answer.headers), answer.body)

    def cache(self, policy=None, limits=None, **more):
        """A step with this policy; ``limits`` are values of WaitLimits."""
        more.setdefault("flights", Flights(limits=WaitLimits(**limits or {})))
        self.seam = Seam(self.store)
        self.step = CacheStep(self.upstream, Policy.model_validate(policy or {}), self.seam, counter=self.registry.counter,
                              route="r", clock=self.clock, **more)
        return self.step

    def ask(self, *headers, target="/a", method="GET", body=None, host="shop.test", deadline=SAFETY, trusted=False):
        request = Request(method, target, list(headers), body, host=host, deadline=Deadline(deadline))
        request.trusted = trusted
        self.note = request.notes
        return Got(self.step(request))

    def count(self, name, **labels):
        return sum(values[key.at] for keys, values in [self.registry.own()] for key in keys
                   if key.name == name and dict(key.labels).items() >= labels.items())


def ok(cc="max-age=60", body=b"hello", status=200, **fields):
    headers = [("Cache-Control", cc)] if cc else []
    headers += [(name.replace("_", "-"), value) for name, value in fields.items()]
    return Response(status, headers, body)


def status_of(response):
    return [value for name, value in response.headers if name == "Cache-Status"]


def settle():
    """Let what runs in the background end."""
    for _ in range(20):
        gevent.sleep(0)


def at_once(world, count, *headers, **more):
    """``count`` requests at once; what each got, or its error."""
    def one():
        try:
            return world.ask(*headers, **more)
        except Exception as error:
            return error
    greenlets = [gevent.spawn(one) for _ in range(count)]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert all(greenlet.dead for greenlet in greenlets)
    return [greenlet.value for greenlet in greenlets]


def meeting(world, count):
    """An upstream that answers when ``count`` requests have come."""
    def upstream(request):
        until(lambda: len(world.seen) >= count)
        return ok("no-store")
    return upstream


def ask_all(workers, count, *headers, **more):
    """``count`` requests at once in each of the workers."""
    greenlets = [gevent.spawn(worker.ask, *headers, **more) for _ in range(count) for worker in workers]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert all(greenlet.successful() for greenlet in greenlets), greenlets
    return [greenlet.value for greenlet in greenlets]


def crowd(workers, count):
    """A function that is true when ``count`` requests have missed, and all workers but one know that another has the lease."""
    missed, waiting = [], []

    def counted(worker):
        get, leased = worker.store.get, worker.store.is_leased
        worker.seam.get = lambda key, owner: found if (found := get(key, owner)) is not None else missed.append(key)
        worker.seam.is_leased = lambda key: (leased(key), waiting.append(worker))[0]

    for worker in workers:
        counted(worker)
    return lambda: len(missed) >= count and len(waiting) >= len(workers) - 1
