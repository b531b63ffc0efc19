"""Workers over the tiers that a test has, and the run directory that they share."""

from __future__ import annotations

import pytest
from stored import Counted, short_pauses

from gateway.cache.storage.construction import http_store
from gateway.cache.storage.store import HttpStore
from gateway.cache.storage.tiers import TierCounters
from gateway.config import CacheStorage, Config
from gateway.local import run_directory as rundir
from tests.cache.storage.workers import begin


@pytest.fixture
def worker():
    """``worker(redis=..., file=...)`` is a started store as a worker has it; ``numbers_of`` it says what was counted."""
    made = []

    def make(start: bool = True, **settings) -> HttpStore:
        one = http_store(Config(cache=CacheStorage(**{"timeout": "30s", **settings})), TierCounters(Counted()), short_pauses)
        made.append(one)
        if start:
            begin(one)
        return one

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def instance(tmp_path):
    """A run directory, as the workers of one instance share it."""
    rundir.enter(rundir.RunDir(tmp_path))
    yield tmp_path
    rundir.enter(None)
