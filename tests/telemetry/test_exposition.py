"""``/metrics``: sums over workers, right after workers have died, and readable by Prometheus in both formats."""

import platform
import re
import sys
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import gateway
from gateway.build import RUNNING, own_version
from gateway.local.run_directory import RunDir
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Registry

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def worker(tmp_path):
    """``worker(slot, state)`` is the started registry of a worker; this process plays them all."""
    registries = []

    def make(slot=0, state="serving"):
        place = RunDir(tmp_path, slot)
        place.set_state(state)
        registry = Registry()
        registry.start(place)
        registries.append(registry)
        return registry

    yield make
    for registry in registries:
        registry.detach()


def samples(registry, accept=""):
    body, kind = render(registry, accept)
    families = (parse_openmetrics if kind.startswith("application/openmetrics-text") else parse_text)(body.decode())
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("accept, kind", [
    ("", "text/plain; version=0.0.4"), ("*/*", "text/plain; version=0.0.4"), ("text/html", "text/plain; version=0.0.4"),
    (OPENMETRICS, "application/openmetrics-text"),
    (f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5", "application/openmetrics-text")])
def test_format_by_accept(worker, accept, kind):
    registry = worker()
    registry.counter("requests_total", "Requests.", {"route": 'GET /"x"\\'}).inc(2)
    registry.histogram("seconds", "Time.", buckets=(0.1, 1.0)).observe(0.5)
    assert render(registry, accept)[1].startswith(kind)
    found = samples(registry, accept)
    assert found["requests_total", ("route", 'GET /"x"\\')] == 2.0
    assert found["seconds_bucket", ("le", "1.0")] == 1.0


def test_histogram_buckets_add_up(worker):
    registry = worker()
    histogram = registry.histogram("seconds", "", {"route": "x"}, buckets=(0.1, 1.0))
    for value in (0.05, 0.5, 0.5, 5.0):
        histogram.observe(value)
    route = ("route", "x")
    found = {key: value for key, value in samples(registry).items() if key[0].startswith("seconds")}
    assert found == {("seconds_bucket", ("le", "0.1"), route): 1.0, ("seconds_bucket", ("le", "1.0"), route): 3.0,
                     ("seconds_bucket", ("le", "+Inf"), route): 4.0, ("seconds_count", route): 4.0,
                     ("seconds_sum", route): pytest.approx(6.05)}


@pytest.mark.parametrize("asked", [0, 1])
def test_every_worker_answers_for_all(worker, asked):
    workers = [worker(0), worker(1)]
    for number, registry in enumerate(workers, 1):
        registry.counter("requests_total", "", {"status": "200"}).inc(number)
        registry.counter("requests_total", "", {"status": f"50{number}"}).inc()
        registry.gauge("in_flight", "").set(number * 10)
        registry.histogram("seconds", "", buckets=(1.0,)).observe(number)
    found = samples(workers[asked])
    assert found["requests_total", ("status", "200")] == 3.0
    assert found["requests_total", ("status", "501")] == found["requests_total", ("status", "502")] == 1.0
    assert found["in_flight",] == 30.0
    assert (found["seconds_count",], found["seconds_sum",]) == (2.0, 3.0)


def test_counters_of_the_dead_stay_and_their_gauges_go(worker, tmp_path):
    living, dead = worker(0), worker(1)
    for registry in (living, dead):
        registry.counter("requests_total", "").inc(5)
        registry.gauge("in_flight", "").set(2)
    RunDir(tmp_path).free_slot(1)
    found = samples(living)
    assert found["requests_total",] == 10.0
    assert found["in_flight",] == 2.0
    heir = worker(1)
    heir.counter("requests_total", "").inc()
    heir.gauge("in_flight", "").inc()
    found = samples(living)
    assert found["requests_total",] == 11.0
    assert found["in_flight",] == 3.0


@pytest.mark.parametrize("state, counts", [("serving", True), ("leaving", True), ("retiring", True), ("draining", True),
                                           ("starting", False), ("failed", False)])
def test_gauges_count_while_their_worker_uses_them(worker, state, counts):
    """One that is starting has not taken the slot over: what is in it is of the worker before."""
    registry = worker(0, state)
    registry.gauge("in_flight", "").inc()
    assert samples(registry).get(("in_flight",)) == (1.0 if counts else None)


def test_workers_problems_and_version(worker, tmp_path):
    registry = worker(0)
    worker(1)
    worker(2, "draining")
    RunDir(tmp_path).report_config(["route /a: no target", "route /b: no target"])
    found = samples(registry)
    assert found["gateway_workers", ("state", "serving")] == 2.0
    assert found["gateway_workers", ("state", "draining")] == 1.0
    assert found["gateway_config_problems",] == 2.0
    [(build, value)] = [(dict(key[1:]), value) for key, value in found.items() if key[0] == "gateway_build_info"]
    assert value == 1.0 and build == {"version": own_version(), "build": RUNNING.name, "python": platform.python_version()}
    assert found["gateway_worker_start_time_seconds", ("slot", "1")] > 1.7e9


def test_slots_that_cannot_be_read_are_left_out_and_counted(worker, tmp_path):
    registry = worker(0)
    registry.counter("requests_total", "").inc()
    for slot, length in ((7, 5), (8, -1)):
        place = RunDir(tmp_path, slot)
        place.set_state("serving")
        place.memory.slot(slot)[:8] = length.to_bytes(8, sys.byteorder, signed=True)
    found = samples(registry)
    assert found["requests_total",] == 1.0
    assert found["gateway_metrics_unreadable",] == 2.0


def test_name_that_is_something_else_in_another_slot_is_left_out(worker):
    first, second = worker(0), worker(1)
    first.histogram("seconds", "", buckets=(1.0,)).observe(0.5)
    second.histogram("seconds", "", buckets=(2.0,)).observe(0.5)
    assert samples(first)["seconds_count",] == samples(second)["seconds_count",] == 1.0


def test_without_a_run_directory_a_process_shows_its_own():
    registry = Registry()
    registry.counter("requests_total", "").inc(3)
    registry.gauge("in_flight", "").inc()
    found = samples(registry)
    assert found["requests_total",] == 3.0
    assert found["in_flight",] == 1.0
    assert ("gateway_config_problems",) not in found


def test_labels_of_any_text_survive(worker):
    labels = {"route": 'a"b\\c\nd é \u2028'}
    registry = worker()
    registry.counter("odd_total", "A help\nof two lines.", labels).inc()
    assert samples(registry)["odd_total", ("route", labels["route"])] == 1.0


def test_every_metric_is_documented():
    package = Path(gateway.__file__).parent
    made = {name for path in package.rglob("*.py") for name in re.findall(r'\(\s*"(gateway_[a-z_]*[a-z])"', path.read_text())}
    table = (package.parent / "docs" / "observe.md").read_text().partition("## Metrics")[2]
    named = {name for row in table.splitlines() if row.startswith("| `gateway_")
             for name in re.findall(r"`(gateway_[a-z_]+)`", row.split(" | ")[0])}
    assert len(made) > 10
    of_the_cache = {name for name in made if name.startswith("gateway_cache_")}
    assert made - of_the_cache == named
    assert [name for name in of_the_cache if f"`{name}`" not in (package.parent / "docs" / "cache.md").read_text()] == []
