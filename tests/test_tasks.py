"""Gathering greenlets: results, errors, limits, context, and that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from contextvars import ContextVar
from pathlib import Path

import flask
import gevent
import pytest
from gevent.event import Event

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, GatherTimeout
from gateway.loop.time_limit import LoopLimit, Turns
from gateway.message import Attempt, Request
from gateway.tasks import Guard, Overdue, current_request, gather, spawn
from tests.waiting import SAFETY, until

ROOT = Path(__file__).parents[1]
color: ContextVar[str] = ContextVar("color", default="none")


@pytest.fixture
def in_request():
    """``in_request(seconds)`` makes a request with that deadline the current one."""
    tokens = []

    def enter(seconds: float, clock=None) -> Request:
        deadline = Deadline(seconds, clock) if clock else Deadline(seconds)
        request = Request("GET", "/", [], deadline=deadline)
        tokens.append(current_request.set(request))
        return request

    yield enter
    while tokens:
        current_request.reset(tokens.pop())


def fail(error: BaseException):
    raise error


class Meeting:
    """``arrive`` returns when ``size`` greenlets have arrived: only if they really run at the same time."""

    def __init__(self, size: int) -> None:
        self.size, self.here, self.most, self.full = size, 0, 0, Event()

    def arrive(self) -> int:
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here == self.size:
            self.full.set()
        assert self.full.wait(SAFETY), f"only {self.here} of {self.size} came"
        return self.size


# -- results

@pytest.mark.parametrize("size", [0, 1, 2, 50])
def test_results_are_in_order_whatever_the_order_of_ending(size):
    turns = [Event() for _ in range(size + 1)]
    turns[-1].set()
    ended = []

    def task(number):
        def run():
            assert turns[number + 1].wait(SAFETY)        # the last one ends first
            ended.append(number)
            turns[number].set()
            return number
        return run

    assert gather(*[task(number) for number in range(size)]) == list(range(size))
    assert ended == list(range(size))[::-1]


def test_nothing_to_do_is_an_empty_list_even_without_time():
    assert gather() == [] == gather(timeout=0) == gather(limit=1, return_exceptions=True)


def test_tasks_run_at_the_same_time():
    meeting = Meeting(3)
    one, two, three = gather(meeting.arrive, meeting.arrive, meeting.arrive)
    assert (one, two, three) == (3, 3, 3)


def test_gathers_nest():
    arrive = Meeting(4).arrive
    assert gather(lambda: gather(arrive, arrive), lambda: gather(arrive, arrive)) == [[4, 4], [4, 4]]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_at_most_limit_run_at_a_time(limit):
    running, most, order = [0], [0], []

    def task(number):
        def run():
            order.append(number)
            running[0] += 1
            most[0] = max(most[0], running[0])
            gevent.sleep(0)
            running[0] -= 1
            return number
        return run

    assert gather(*[task(number) for number in range(7)], limit=limit) == list(range(7))
    assert most[0] == limit
    assert order == list(range(7))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_a_mistake(limit):
    with pytest.raises(ValueError, match="at least one"):
        gather(lambda: 1, limit=limit)


# -- errors

def test_the_first_error_ends_the_others_and_their_finally_blocks_have_run():
    started, log = Event(), []

    def waits():
        try:
            started.set()
            gevent.sleep(SAFETY)
        finally:
            gevent.sleep(0)                              # cleaning up may wait too
            log.append("cleaned")

    def fails():
        assert started.wait(SAFETY)
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        gather(waits, fails, waits)
    assert log == ["cleaned", "cleaned"]


def test_tasks_above_the_limit_never_start_after_an_error():
    log = []
    with pytest.raises(LookupError):
        gather(lambda: fail(LookupError()), lambda: log.append("ran"), limit=1)
    assert log == []


def test_the_error_has_its_own_traceback_and_cause():
    def deep():
        try:
            fail(KeyError("inner"))
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(RuntimeError) as caught:
        gather(deep)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "deep" and "gather" in names
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_is_not_printed_by_the_greenlet_that_raised_it(capfd):
    with pytest.raises(LookupError):
        gather(lambda: fail(LookupError("quiet")))
    assert "quiet" not in capfd.readouterr().err


def test_errors_can_be_had_in_the_list():
    first, second = LookupError("a"), gevent.Timeout(1)
    assert gather(lambda: fail(first), lambda: 7, lambda: fail(second), return_exceptions=True) == [first, 7, second]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, gevent.GreenletExit])
def test_what_ends_a_program_or_a_greenlet_is_never_put_in_the_list(kind):
    with pytest.raises(kind):
        gather(lambda: fail(kind()), return_exceptions=True)


def test_a_killed_caller_takes_its_children_along():
    meeting, log = Meeting(3), []

    def child():
        try:
            meeting.arrive()
            gevent.sleep(SAFETY)
        finally:
            log.append("ended")

    caller = gevent.spawn(gather, child, lambda: gather(child, child))
    assert meeting.full.wait(SAFETY)
    caller.kill()
    assert log == ["ended"] * 3


# -- time

def hang():
    gevent.sleep(SAFETY)


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_its_own_timeout_is_a_timeout_error(seconds, in_request):
    in_request(SAFETY, clock=lambda: 0.0)                # by which the timeout is not over before its tasks start
    log = []

    def child():
        try:
            hang()
        finally:
            log.append("ended")

    with pytest.raises(TimeoutError) as caught:
        gather(child, timeout=seconds)
    assert type(caught.value) is GatherTimeout and caught.value.status == 504
    assert log == (["ended"] if seconds else [])         # without time nothing is started


def test_the_deadline_of_the_request_holds_too(in_request):
    in_request(0.02)
    for timeout in (None, SAFETY):
        with pytest.raises(DeadlineExceeded):
            gather(hang, timeout=timeout)


def test_the_shorter_of_timeout_and_deadline_decides(in_request):
    in_request(SAFETY)
    with pytest.raises(GatherTimeout):
        gather(hang, timeout=0.02)


def test_a_passed_deadline_starts_nothing(in_request):
    now = [0.0]
    in_request(5.0, clock=lambda: now[0])
    log = []
    assert gather(lambda: log.append("in time")) == [None]
    now[0] = 5.0
    with pytest.raises(DeadlineExceeded):
        gather(lambda: log.append("too late"))
    assert log == ["in time"]


def test_an_error_before_the_timeout_wins():
    with pytest.raises(LookupError):
        gather(hang, lambda: fail(LookupError()), timeout=SAFETY)


# -- context

def test_each_task_sees_the_context_and_changes_only_its_own():
    def change(value):
        def run():
            seen = color.get()
            color.set(value)
            gevent.sleep(0)
            return seen, color.get()
        return run

    token = color.set("blue")
    assert gather(change("red"), change("green")) == [("blue", "red"), ("blue", "green")]
    assert color.get() == "blue"
    color.reset(token)


def test_attempts_of_all_tasks_are_noted_on_the_request(in_request):
    request = in_request(SAFETY)

    def attempt(name):
        return lambda: current_request.get().attempts.append(Attempt(name, ""))

    gather(attempt("a"), lambda: gather(attempt("b"), attempt("c")))
    assert sorted(one.upstream for one in request.attempts) == ["a", "b", "c"]


def test_spawn_gives_the_context_and_arguments():
    token = color.set("blue")
    greenlet = spawn(lambda *args, **kwargs: (color.get(), args, kwargs), 1, two=2)
    color.reset(token)
    assert greenlet.get(timeout=SAFETY) == ("blue", (1,), {"two": 2})


@pytest.fixture
def app():
    app = flask.Flask(__name__)
    app.secret_key = "for the session"
    app.torn_down = []
    app.teardown_request(lambda error: app.torn_down.append(("request", error)))
    app.teardown_appcontext(lambda error: app.torn_down.append(("app", error)))
    return app


def test_flask_is_the_same_in_every_task(app):
    @app.get("/hello/<name>")
    def hello(name):
        flask.g.user = "ann"
        flask.session["visits"] = 1

        def task(number):
            def run():
                flask.session[f"task{number}"] = number
                flask.g.setdefault("seen", []).append(number)
                return [flask.request.path, flask.request.args["q"], flask.g.user, flask.current_app.name,
                        flask.url_for("hello", name="bob")]
            return run

        answers = gather(task(1), task(2))
        assert not app.torn_down                          # the children left the context alone
        return {"answers": answers, "seen": flask.g.seen}

    client = app.test_client()
    answer = client.get("/hello/ann?q=7").json
    assert answer == {"answers": [["/hello/ann", "7", "ann", app.name, "/hello/bob"]] * 2, "seen": [1, 2]}
    assert app.torn_down == [("request", None), ("app", None)]
    with client.session_transaction() as session:
        assert dict(session) == {"visits": 1, "task1": 1, "task2": 2}


def test_requests_in_parallel_do_not_see_each_other(app):
    @app.get("/<int:number>")
    def view(number):
        def task():
            gevent.sleep(0)
            return flask.request.view_args["number"]
        return {"seen": gather(task, task)}

    paths = [f"/{number}" for number in range(10)]
    answers = gather(*[lambda path=path: app.test_client().get(path).json["seen"] for path in paths])
    assert answers == [[number, number] for number in range(10)]
    assert sorted(name for name, _ in app.torn_down) == ["app"] * 10 + ["request"] * 10


def test_an_error_of_a_task_is_the_views_error(app):
    @app.errorhandler(LookupError)
    def handle(error):
        return f"handled {error}", 418

    @app.get("/")
    def view():
        return gather(lambda: fail(LookupError("x")), hang)

    answer = app.test_client().get("/")
    assert (answer.status_code, answer.text) == (418, "handled x")
    assert len(app.torn_down) == 2


def test_the_example_runs():
    done = subprocess.run([sys.executable, ROOT / "examples" / "gather.py"], capture_output=True, text=True, timeout=SAFETY,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr == ""
    assert done.stdout.startswith("/user /orders /team: ") and "not all tasks were done after 0.05 s" in done.stdout


# -- the guard of a deadline

def soon() -> Deadline:
    """A deadline that is over soon after a Guard has begun, however long it takes to begin."""
    readings = [0.0, 0.0]                                # those of the deadline's beginning and of the guard's
    return Deadline(0.01, lambda: readings.pop() if readings else 1000.0)


def test_a_block_in_time_is_left_alone():
    with Guard(Deadline(SAFETY)):
        gevent.sleep(0)


def test_a_deadline_that_is_over_lets_nothing_begin():
    with pytest.raises(DeadlineExceeded), Guard(Deadline(0.0)):
        pytest.fail("it began")


def test_an_error_of_the_block_is_its_own():
    with pytest.raises(LookupError), Guard(Deadline(SAFETY)):
        raise LookupError


def test_what_catches_the_deadline_may_still_end_well():
    with Guard(soon(), grace=0.02):
        with pytest.raises(DeadlineExceeded):
            Event().wait(SAFETY)
    with pytest.raises(LookupError), LoopLimit(0.06, LookupError()):     # what began later comes, and nothing of the guard's
        Event().wait(SAFETY)


def test_what_goes_on_is_told_again_and_again_by_no_exception():
    seen = []
    with Guard(soon(), grace=0.02):
        while len(seen) < 4:
            try:
                Event().wait(SAFETY)
            except BaseException as error:
                seen.append(type(error))
    assert seen == [DeadlineExceeded, Overdue, Overdue, Overdue]
    assert not issubclass(Overdue, Exception)


def test_what_leaves_the_block_is_deadline_exceeded():
    with pytest.raises(DeadlineExceeded) as caught, Guard(soon(), grace=0.02):
        for _ in range(2):
            try:
                Event().wait(SAFETY)
            except Exception:
                pass
    assert isinstance(caught.value.__cause__, Overdue)


def test_a_deadline_that_moves_is_followed():
    deadline = Deadline(0.01, lambda: 0.0)
    with Guard(deadline) as guard:
        first = guard._timer
        deadline.at += SAFETY
        until(lambda: guard._timer is not first and not isinstance(guard._timer, Turns), "another was started for the rest")


def test_uncounted_time_moves_the_deadline():
    now = [0.0]

    def wait(seconds):
        now[0] += seconds
        if seconds > 100:
            raise LookupError
        return seconds

    deadline = Deadline(10, lambda: now[0])
    with Guard(deadline) as guard:
        assert guard.suspend_while(wait, 60) == 60 and deadline.left() == 10
        now[0] += 3
        with pytest.raises(LookupError):
            guard.suspend_while(wait, 600)
        assert deadline.left() == 7
    guard.suspend_while(wait, 1)                             # after its end it counts nothing
    assert deadline.left() == 6


def test_uncounted_time_does_not_hold_up_the_end():
    with pytest.raises(DeadlineExceeded), Guard(soon(), grace=0.02) as guard:
        try:
            Event().wait(SAFETY)
        except DeadlineExceeded:
            guard.suspend_while(Event().wait, SAFETY)


def test_a_loop_of_gathers_after_the_deadline_lets_others_run(in_request):
    in_request(SAFETY).deadline.at = 0.0
    ran = []
    gevent.spawn(ran.append, True)
    for _ in range(100):
        with pytest.raises(DeadlineExceeded):
            gather(lambda: None)
        if ran:
            return
    pytest.fail("nobody else ran")
