"""An asyncio loop on the hub: many at once, each with its own running loop; what stops one; signals and other threads."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time

import gevent
import pytest
from gevent import get_hub, monkey
from gevent.event import Event

from gateway.loop.asyncio_loop import HubLoop, get_policy, install, set_policy

pytestmark = pytest.mark.filterwarnings("error")
AT_ONCE = 20


class Late(Exception):
    """What a time limit raises."""


def run(coroutine, turn: float = 0.001):
    """As asyncio.run does it, whatever the policy."""
    with asyncio.Runner(loop_factory=lambda: HubLoop(turn)) as runner:
        return runner.run(coroutine)


def test_twenty_at_once_each_with_its_own_running_loop():
    arrived, everybody = [], Event()

    async def part(number: int):
        loop = asyncio.get_running_loop()
        arrived.append(loop)
        if len(arrived) == AT_ONCE:
            everybody.set()
        while not everybody.is_set():
            await asyncio.sleep(0.001)
        task = asyncio.current_task()
        time.sleep(0.001)                                # waits cooperatively: others run, with loops of their own
        assert asyncio.get_running_loop() is loop and asyncio.current_task() is task
        return number

    greenlets = [gevent.spawn(run, part(number)) for number in range(AT_ONCE)]
    assert [greenlet.get() for greenlet in greenlets] == list(range(AT_ONCE)) and len(set(arrived)) == AT_ONCE


def test_greenlets_beside_a_coroutine_see_no_running_loop():
    async def main():
        def look():
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return run(asyncio.sleep(0, "another loop"))
        return gevent.spawn(look).get()

    assert run(main()) == "another loop"


def test_coroutines_that_never_wait_do_not_keep_others_from_running():
    one, other = socket.socketpair()
    echoed = []

    def echo():
        for _ in range(20):
            other.sendall(other.recv(1))

    def ask():
        for _ in range(20):
            one.sendall(b"x")
            echoed.append(one.recv(1))

    async def spin():
        while len(echoed) < 20:
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(spin() for _ in range(50)))

    greenlets = [gevent.spawn(echo), gevent.spawn(ask)]
    run(main())
    gevent.joinall(greenlets)
    one.close()
    other.close()


def test_slow_callbacks_let_others_run_between_them():
    """A hundred are ready at once; asyncio's own loop runs all of them in a row."""
    ran, seen = [], []

    def slow():
        end = time.perf_counter() + 0.003
        while time.perf_counter() < end:
            pass
        ran.append(1)

    def look():
        while len(ran) < 100:
            if ran:
                seen.append(len(ran))
            gevent.sleep(0)

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(100):
            loop.call_soon(slow)
        while len(ran) < 100:
            await asyncio.sleep(0)

    greenlet = gevent.spawn(look)
    run(main())
    greenlet.join()
    assert len(set(seen)) > 10


@pytest.mark.parametrize("turn", [0, 0.001])
def test_stop_comes_after_what_is_ready(turn):
    """asyncio relies on it: run_until_complete stops the loop, and what else the batch has to do is still done."""
    loop, ran = HubLoop(turn), []
    loop.call_soon(loop.stop)
    for number in range(100):
        loop.call_soon(ran.append, number)
    loop.run_forever()
    assert ran == list(range(100))
    loop.run_until_complete(asyncio.sleep(0))            # nothing of the stop is left
    loop.close()


@pytest.mark.parametrize("ended_by", ["timeout", "kill"])
def test_what_is_thrown_into_the_caller_stops_an_idle_loop(ended_by):
    events = []

    async def main():
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            events.append("finally")

    def body():
        try:
            run(main())
        except BaseException as error:
            events.append(type(error))

    began = Event()
    greenlet = gevent.spawn(body)
    began.wait()
    error = Late() if ended_by == "timeout" else gevent.GreenletExit()
    greenlet.kill(error)
    assert events == ["cancelled", "finally", type(error)]


def test_what_is_thrown_into_the_caller_reaches_a_coroutine_in_a_blocking_call():
    caught = []

    async def main():
        began.set()
        try:
            time.sleep(1000)
        except Late as error:
            caught.append(error)
            raise

    began, late = Event(), Late()
    greenlet = gevent.spawn(error_of, run, main())
    began.wait()
    greenlet.kill(late)
    assert caught == [late] and greenlet.get() is late


def error_of(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error


def test_a_coroutine_that_exits_ends_its_caller_alone():
    async def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        run(leave())


def test_errors_keep_their_traceback():
    async def fail():
        raise Late("here")

    with pytest.raises(Late, match="here") as caught:
        run(fail())
    assert caught.traceback[-1].name == "fail"


def test_other_greenlets_and_native_threads_wake_an_idle_loop():
    async def main():
        loop = asyncio.get_running_loop()
        came = asyncio.Queue()
        gevent.spawn_later(0.001, came.put_nowait, "greenlet")
        assert await came.get() == "greenlet"
        gevent.spawn_later(0.001, loop.call_later, 0, came.put_nowait, "timer")
        assert await came.get() == "timer"
        get_hub().threadpool.spawn(loop.call_soon_threadsafe, came.put_nowait, "thread")
        assert await came.get() == "thread"
        return await loop.run_in_executor(None, time.sleep, 0)

    run(main())


def test_threads_and_executors_wait_beside_the_loop():
    arrived, everybody = [], Event()

    def part():
        arrived.append(1)
        if len(arrived) == 100:
            everybody.set()
        return everybody.wait(60)

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(part) for _ in range(100)))

    assert run(main()) == [True] * 100


def test_an_executor_that_is_shut_down_stays_so():
    async def main():
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            await asyncio.to_thread(time.sleep, 0)

    run(main())


def test_a_signal_handler_leaves_all_as_it_was():
    def before(number, frame):
        raise AssertionError("not while the loop has it")

    wakeup = signal.set_wakeup_fd(-1)
    former = signal.signal(signal.SIGUSR2, before)

    async def main():
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR2, came.set)
        os.kill(os.getpid(), signal.SIGUSR2)
        await came.wait()
        assert loop.remove_signal_handler(signal.SIGUSR2) and not loop.remove_signal_handler(signal.SIGUSR2)
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, came.set)
        with pytest.raises(TypeError):
            loop.add_signal_handler(signal.SIGUSR2, main)

    try:
        run(main())
        assert signal.getsignal(signal.SIGUSR2) is before and signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR2, former)
        signal.set_wakeup_fd(wakeup)


def test_a_closed_pipe_brings_its_end():
    """A patched os.close closes after the hub's next poll."""
    async def main():
        reader, writer = os.pipe()
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", 0))
        os.write(writer, b"x")
        os.close(writer)
        data = await stream.read()
        transport.close()
        return data

    assert run(main()) == b"x"


def test_servers_and_clients_of_streams():
    async def echo(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def ask(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.gather(*(ask(port) for _ in range(AT_ONCE)))

    assert run(main()) == [b"HELLO\n"] * AT_ONCE


def test_subprocesses_run_beside_each_other():
    async def part(number):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=asyncio.subprocess.PIPE,
                                                       stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate(b"x")
        return output, process.returncode

    async def main():
        return await asyncio.gather(*(part(number) for number in range(5)))

    assert run(main()) == [(b"x", number) for number in range(5)]


def test_installed_it_is_what_asyncio_makes():
    policy = get_policy()
    try:
        install()
        installed = get_policy()
        install()
        assert get_policy() is installed and isinstance(installed, type(policy))
        loop = asyncio.new_event_loop()
        assert type(loop) is HubLoop
        loop.close()

        async def which():
            return type(asyncio.get_running_loop())

        assert asyncio.run(which()) is HubLoop
        with asyncio.Runner() as runner:
            assert runner.run(which()) is HubLoop
    finally:
        set_policy(policy)


def test_it_serves_a_native_thread_too():
    async def main():
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    def body():
        hub = get_hub()
        loop = run(main())
        hub.destroy(destroy_loop=True)
        return loop._hub is hub

    assert get_hub().threadpool.apply(body) and monkey.is_module_patched("threading")
