"""Succession of workers: the moment at which one may leave, without a gap in the service and without a broken successor."""

from __future__ import annotations

from ..local.run_directory import ACCEPTING

FAILED_AFTER = 0.5              # seconds after which a failed worker counts: one that is to end by itself says so until then


class Succession:
    """Decides when a worker may leave. ``others`` are the workers there are when it begins to wait, their states by pid.

    A worker that a signal ends leaves as soon as nobody is starting: then its successors serve, or none were coming. One that has
    served its ``max_requests`` waits for a worker that was not there before. A successor that failed, and that no signal has ended
    meanwhile, is a broken deployment: the worker stays.
    """

    def __init__(self, others: dict[int, str]) -> None:
        self._others = others.keys()
        self._failed_at = 0.0

    def may_leave(self, others: dict[int, str], by_signal: bool, now: float) -> bool | None:
        """True: leave. False: stay for good. None: not known yet. ``now`` is in seconds."""
        states = set(others.values())
        if by_signal and not states & {"starting", "failed"}:
            return True
        if not by_signal and any(pid not in self._others and state in ACCEPTING for pid, state in others.items()):
            return True
        if "failed" not in states or "starting" in states:
            self._failed_at = 0.0
            return None
        self._failed_at = self._failed_at or now
        return False if now > self._failed_at + FAILED_AFTER else None
