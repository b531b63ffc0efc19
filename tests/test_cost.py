"""The guard against slow creep: it counts work, not time, and so says the same on every machine."""

import pytest

from bench import cost
from bench.cost import RECORDED, SLACK, TOLERANCE, Work, ask, judged, running, work
from tests.compiled import COMPILED

counts_lines = pytest.mark.skipif(COMPILED, reason="a compiled module runs no lines of Python that could be counted")


@counts_lines
@pytest.mark.parametrize("case", RECORDED)
def test_a_request_takes_no_more_work_than_is_recorded(case):
    problem = judged(case, work(case), RECORDED[case])
    assert not problem, problem


@counts_lines
def test_the_count_is_the_same_every_time():
    assert work("compose") == work("compose")


@counts_lines
def test_the_count_sees_one_more_function_in_the_way(monkeypatch):
    def ask_with_more(pipeline, path):
        return bytes(ask(pipeline, path))

    before = work("memory")
    monkeypatch.setattr(cost, "ask", ask_with_more)
    assert work("memory") == Work(before.calls + 1, before.lines + 1)


@counts_lines
def test_the_count_sees_what_the_parts_of_a_composition_do():
    """They run in greenlets of their own."""
    assert work("compose").calls > 2 * work("proxy").calls


@pytest.mark.parametrize("case, body", [
    ("memory", b"Hello, world!"), ("hit", cost.BODY), ("proxy", cost.BODY),
    ("compose", b'{"user":%b,"orders":%b,"team":%b}' % ((cost.BODY.replace(b": ", b":").replace(b", ", b","),) * 3))])
def test_what_is_counted_is_an_answer(case, body):
    with running(cost.CACHED) as (pipeline, _):
        assert ask(pipeline, cost.PATHS[case]).replace(b": ", b":").replace(b", ", b",") == body.replace(b": ", b":").replace(
            b", ", b",")


@pytest.mark.parametrize("found, words", [
    (Work(1000, 1000), ""),
    (Work(int(1000 * (1 + TOLERANCE)), 1000), ""),
    (Work(int(1000 * (1 + TOLERANCE)) + 1, 1000), "calls"),
    (Work(1000, int(1000 * (1 + TOLERANCE)) + 1), "lines"),
    (Work(int(1000 * (1 - SLACK)), 1000), ""),
    (Work(int(1000 * (1 - SLACK)) - 1, 1000), "takes only"),
])
def test_the_verdict_says_what_changed_and_what_to_do(found, words):
    verdict = judged("proxy", found, Work(1000, 1000))
    assert (words in verdict and "python -m bench.cost --record" in verdict) if words else not verdict


def test_recording_changes_only_the_numbers(tmp_path, monkeypatch):
    copy = tmp_path / "cost.py"
    text = open(cost.__file__).read()
    copy.write_text(text)
    monkeypatch.setattr(cost, "__file__", str(copy))
    cost.record(RECORDED)
    assert copy.read_text() == text
    cost.record({"proxy": Work(7, 8)})
    changed = [line for line in copy.read_text().splitlines() if line not in text.splitlines()]
    assert changed == ['    "proxy": Work(7, 8),']
