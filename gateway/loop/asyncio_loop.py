"""An asyncio event loop on the gevent hub: a greenlet runs it, and the hub is its selector.

While its coroutines wait, all other greenlets run; a coroutine that calls something that waits cooperatively (``requests.get``,
``time.sleep``) holds up the coroutines of its loop only. Any number of loops run in one native thread, each in a greenlet of its
own (loop_greenlet.py). Any greenlet of that thread may call ``call_soon``, ``call_later``, ``stop`` and ``Task.cancel``.

What differs from asyncio's own loop: callbacks run a few at a time (hub_selector.py), and signal handlers take no wakeup descriptor
of the process, which a server may use.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from asyncio import events
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

from gevent import get_hub, getcurrent

from .hub_selector import TURN, HubSelector, ReadyQueue
from .loop_greenlet import LoopGreenlet
from .native_threads import native_thread

THREADS = 256                                            # of the default executor; they are greenlets in a patched process
AsyncioLoop: Any = asyncio.SelectorEventLoop              # what its subclasses may rely on is in no stub


class HubLoop(AsyncioLoop):
    """``turn`` is how long it goes on, in seconds, before others have their turn."""

    def __init__(self, turn: float = TURN) -> None:
        self._hub = get_hub()
        self._thread = native_thread()
        self._former_handlers: dict[int, Any] = {}
        ready = ReadyQueue()
        ready.is_whole = turn == 0
        super().__init__(HubSelector(self._hub, ready, turn))
        self._ready = ready                              # in place of asyncio's own, which is still empty
        self._turn = turn

    # Running

    def run_forever(self) -> None:
        """As asyncio's, from any greenlet: the caller waits. What is thrown into it (a deadline, its death) is thrown on into the
        callback that waits in a blocking call, if there is one, and stops the loop."""
        self._ready.is_whole = self._turn == 0
        if isinstance(getcurrent(), LoopGreenlet):
            super().run_forever()
            return
        self._check_running()
        errors: list[BaseException] = []
        greenlet = LoopGreenlet(self._run_until_stopped, errors)
        greenlet.gr_context = copy_context()
        greenlet.start()
        self._join(greenlet)
        if errors:
            try:
                raise errors.pop()
            finally:
                errors.clear()

    def _run_until_stopped(self, errors: list[BaseException]) -> None:
        """Nothing leaves it: gevent would print that, and end the process for KeyboardInterrupt and SystemExit."""
        try:
            super().run_forever()
        except BaseException as error:
            errors.append(error)

    def _join(self, greenlet: LoopGreenlet) -> None:
        try:
            greenlet.join()
        except BaseException as error:
            self._hub.loop.run_callback(self._throw, greenlet, error)
            self.stop()
            self._join(greenlet)
            raise

    def _throw(self, greenlet: LoopGreenlet, error: BaseException) -> None:
        """In the hub, so the greenlet waits: where a callback does, raise ``error``."""
        if greenlet.loop is not None and not self._selector.is_waiting:
            greenlet.throw(error)

    def start(self) -> LoopGreenlet:
        """Run in a greenlet of its own until ``stop``, and return that. What ends a program ends the task that raised it."""
        greenlet = LoopGreenlet(self._run_in_background)
        greenlet.start()
        return greenlet

    def _run_in_background(self) -> None:
        while True:
            try:
                return super().run_forever()
            except (KeyboardInterrupt, SystemExit):      # the task has it as its result
                continue

    def stop(self) -> None:
        """After the callbacks that are ready: asyncio relies on that, however few of them it was told."""
        is_cut = self._ready.is_cut
        self._ready.is_whole = True
        if is_cut:
            self.call_soon(super().stop)
        else:
            super().stop()
            self._selector.poke()

    def interrupt(self, greenlet: LoopGreenlet, task: asyncio.Task[Any], error: BaseException) -> None:
        """End a task of the loop that ``greenlet`` runs: by ``error`` where it waits in a blocking call, else by cancelling it."""
        self._hub.loop.run_callback(self._interrupt, greenlet, task, error)

    def _interrupt(self, greenlet: LoopGreenlet, task: asyncio.Task[Any], error: BaseException) -> None:
        """In the hub, so the greenlet waits."""
        if greenlet.task is task:
            self._throw(greenlet, error)
        else:
            task.cancel()

    # Callbacks from other greenlets

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self._selector.poke()
        return called_outside(handle)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self._selector.poke()
        return called_outside(timer)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        if native_thread() == self._thread:
            handle = super().call_soon(callback, *args, context=context)
            self._selector.poke()
        else:
            self._check_closed()
            handle = asyncio.Handle(callback, args, self, context)
            self._hub.loop.run_callback_threadsafe(self._add_callback_signalsafe, handle)
        return called_outside(handle)

    def _add_callback_signalsafe(self, handle: asyncio.Handle) -> None:
        """In the hub."""
        self._ready.append(handle)
        self._selector.wake()

    def _check_thread(self) -> None:
        """In debug mode."""
        if native_thread() != self._thread:
            super()._check_thread()

    # Threads

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        """As asyncio's, whose default executor would have six threads on two processors, for all that the loop serves."""
        if executor is None and self._default_executor is None:
            self._check_default_executor()               # it is not shut down
            self.set_default_executor(ThreadPoolExecutor(THREADS, "asyncio"))
        return super().run_in_executor(executor, func, *args)

    # Signals: asyncio's loop takes the one wakeup descriptor of the process, and leaves SIG_DFL behind. This one has a plain
    # handler, and puts back the one before; the signal itself wakes the hub.

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        if inspect.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        if sig not in self._signal_handlers:
            try:
                self._former_handlers[sig] = signal.signal(sig, self._on_signal)
            except (OSError, ValueError) as error:       # one that cannot be caught; not the main thread
                raise RuntimeError(f"sig {sig} cannot be caught: {error}") from error
            signal.siginterrupt(sig, False)
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)

    def _on_signal(self, sig: int, frame: object) -> None:
        self._hub.loop.run_callback_threadsafe(self._handle_signal, sig)

    def remove_signal_handler(self, sig: int) -> bool:
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        former = self._former_handlers.pop(sig)
        if signal.getsignal(sig) == self._on_signal:     # else somebody else has taken it meanwhile
            signal.signal(sig, signal.SIG_DFL if former is None else former)
        return True


def called_outside(handle: Any) -> Any:
    """In debug mode a handle knows where it was made: not in this file, but where that was called."""
    if handle._source_traceback:
        del handle._source_traceback[-1]
    return handle


# What asyncio makes its loops with: a policy. 3.14 has deprecated the public names, 3.16 is to have none of it.
if sys.version_info >= (3, 14):
    get_policy: Any = getattr(events, "_get_event_loop_policy")
    set_policy: Any = getattr(events, "_set_event_loop_policy")
else:
    get_policy, set_policy = asyncio.get_event_loop_policy, asyncio.set_event_loop_policy


def install() -> None:
    """From now on ``asyncio.new_event_loop()`` makes a HubLoop, and so do ``asyncio.run`` and all that builds on them."""
    policy = type(get_policy())
    if "new_event_loop" not in vars(policy) or vars(policy)["new_event_loop"] is not new_hub_loop:
        set_policy(type("HubLoopPolicy", (policy,), {"new_event_loop": new_hub_loop})())


def new_hub_loop(policy: object) -> HubLoop:
    return HubLoop()
