"""run_async and run_sync: values, errors, context and the end of either side; the shared loop and its end."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextvars import ContextVar

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event

from gateway import run_async, run_sync
from gateway.loop.coroutines import SharedLoop, close_shared_loop

AT_ONCE = 20
colour: ContextVar[str] = ContextVar("colour", default="none")


class Late(Exception):
    """What a time limit raises."""


@pytest.fixture(autouse=True)
def closed():
    yield
    close_shared_loop()


def error_of(function, *args):
    try:
        return function(*args)
    except BaseException as error:
        return error


def together(run_one) -> list[int]:
    """Runs it so often at once, each of which waits for all others."""
    arrived, everybody = [], Event()

    def arrive():
        arrived.append(1)
        if len(arrived) == AT_ONCE:
            everybody.set()
        return everybody.is_set

    return [greenlet.get() for greenlet in [gevent.spawn(run_one, number, arrive) for number in range(AT_ONCE)]]


def test_twenty_coroutines_at_once_on_one_loop():
    loops = set()

    async def part(number, arrive):
        loops.add(asyncio.get_running_loop())
        are_all_here = arrive()
        while not are_all_here():
            await asyncio.sleep(0.001)
        return number

    assert together(lambda number, arrive: run_async(part(number, arrive))) == list(range(AT_ONCE)) and len(loops) == 1


def test_twenty_sync_functions_at_once():
    def part(number, arrive):
        are_all_here = arrive()
        while not are_all_here():
            time.sleep(0.001)
        return number

    async def call(number, arrive):
        return await run_sync(part, number, arrive=arrive)

    assert together(lambda number, arrive: run_async(call(number, arrive))) == list(range(AT_ONCE))


def test_each_side_sees_the_context_of_the_other_and_what_that_has_set():
    def inner():
        assert colour.get() == "green"
        colour.set("blue")

    async def middle():
        assert colour.get() == "red"
        colour.set("green")
        await run_sync(inner)
        assert colour.get() == "blue"

    def outer():
        colour.set("red")
        run_async(middle())
        return colour.get()

    assert gevent.spawn(outer).get() == "blue" and colour.get() == "none"


@pytest.mark.parametrize("error", [Late("here"), StopAsyncIteration(), TimeoutError(), SystemExit(3), gevent.GreenletExit()])
def test_errors_of_coroutines_come_out_as_they_are(error):
    async def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        run_async(fail())
    assert caught.value is error and caught.traceback[-1].name == "fail"
    assert run_async(asyncio.sleep(0, "the loop goes on")) == "the loop goes on"


@pytest.mark.parametrize("error", [Late("here"), SystemExit(3), gevent.GreenletExit()])
def test_errors_of_sync_functions_come_out_as_they_are(error):
    def fail():
        raise error

    async def call():
        await run_sync(fail)

    with pytest.raises(type(error)) as caught:
        run_async(call())
    assert caught.value is error and [each.name for each in caught.traceback][-1] == "fail"


def test_a_coroutine_that_would_wait_for_itself_is_told():
    async def outer():
        run_async(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await run_sync"):
        run_async(outer())


def test_sync_code_of_a_coroutine_may_run_coroutines():
    async def outer():
        return await run_sync(run_async, asyncio.sleep(0, "inner"))

    assert run_async(outer()) == "inner"


@pytest.mark.parametrize("error", [Late(), gevent.GreenletExit()])
def test_what_is_thrown_into_the_caller_cancels_the_coroutine_and_waits_for_its_end(error):
    began, events = Event(), []

    async def wait():
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            events.append("cleaned up")
            raise

    greenlet = gevent.spawn(error_of, run_async, wait())
    began.wait()
    greenlet.kill(error)
    assert events == ["cleaned up"] and greenlet.value is error


def test_a_coroutine_may_answer_after_all():
    began = Event()

    async def fall_back():
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "a fallback"

    greenlet = gevent.spawn(error_of, run_async, fall_back())
    began.wait()
    greenlet.kill(Late())
    assert greenlet.value == "a fallback"


def test_a_coroutine_in_a_blocking_call_gets_the_error_there():
    began, caught, late = Event(), [], Late()

    async def block():
        began.set()
        try:
            time.sleep(1000)
        except Late as error:
            caught.append(error)
            raise

    greenlet = gevent.spawn(error_of, run_async, block())
    began.wait()
    greenlet.kill(late)
    assert caught == [late] and greenlet.value is late
    assert run_async(asyncio.sleep(0, "the loop goes on")) == "the loop goes on"


def test_a_coroutine_that_goes_on_is_left_to_itself():
    loop = SharedLoop(grace=0.01)
    began, finish = Event(), Event()

    async def stubborn():
        began.set()
        while not finish.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue

    greenlet = gevent.spawn(error_of, loop.run, stubborn())
    began.wait()
    greenlet.kill(late := Late())
    assert greenlet.value is late
    finish.set()
    loop.close()


def test_a_cancelled_coroutine_ends_its_sync_function():
    began, events = Event(), []

    def hang():
        began.set()
        try:
            time.sleep(1000)
        finally:
            events.append("finally")

    async def call():
        try:
            await run_sync(hang)
        finally:
            events.append("and then here")

    greenlet = gevent.spawn(error_of, run_async, call())
    began.wait()
    greenlet.kill(Late())
    assert events == ["finally", "and then here"]


def test_a_timeout_of_asyncio_ends_a_sync_function():
    async def call():
        async with asyncio.timeout(0.01):
            await run_sync(time.sleep, 1000)

    with pytest.raises(TimeoutError):
        run_async(call())


def test_a_native_thread_runs_coroutines_on_a_loop_of_its_own():
    async def which():
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    def body():
        try:
            return run_async(which())
        finally:
            get_hub().destroy(destroy_loop=True)

    assert get_hub().threadpool.apply(body) is not run_async(which())


def test_run_sync_serves_any_loop_of_asyncio():
    async def call():
        return await run_sync(lambda: "sync")

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(call()) == "sync"


def test_the_end_cancels_what_still_runs(capfd, caplog):
    ended = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            ended.append("background")

    async def numbers():
        try:
            for number in range(10):
                yield number
        finally:
            ended.append("generator")

    async def begin():
        kept.append(asyncio.create_task(background()))
        kept.append(generator := numbers())
        await asyncio.to_thread(time.sleep, 0)
        return await generator.__anext__()

    kept = []
    run_async(begin())
    close_shared_loop()
    kept.clear()
    gc.collect()
    assert ended == ["background", "generator"] and not caplog.records and not capfd.readouterr().err
    assert run_async(asyncio.sleep(0, "another loop")) == "another loop"


@pytest.mark.leaks_allowed
def test_a_task_that_does_not_end_is_named(caplog):
    loop = SharedLoop(closing_time=0.05)

    async def stubborn():
        while True:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    async def begin():
        kept.append(asyncio.create_task(stubborn()))

    kept = []
    loop.run(begin())
    loop.close()
    assert "did not end when it was cancelled" in caplog.text and "stubborn" in caplog.text
    caplog.clear()


def test_a_child_process_has_a_loop_of_its_own():
    run_async(asyncio.sleep(0))
    pid = os.fork()
    if pid == 0:
        os._exit(error_of(run_async, asyncio.sleep(0.001, 7)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
