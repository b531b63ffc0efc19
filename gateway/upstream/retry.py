"""The outcome of an attempt, and whether there is another one. Pure.

=====================================  ==============================================================================
the attempt                            then
=====================================  ==============================================================================
sent nothing: no connection            another instance, whatever the request is
sent nothing on a used connection      a fresh connection to the same instance, whatever the request is
a used connection ended silently       the same, if the method is idempotent (RFC 9110 section 9.2.2): its time was most
                                       likely over while the request was on its way (RFC 9112 section 9.3.1)
a status that counts as a failure      another instance, if the method is idempotent
anything else                          the end
=====================================  ==============================================================================

A body of which something was consumed cannot be sent again, and ends it too.

An attempt has its outcome once it has the head of its answer, or has failed before that. A body that is cut later changes no
outcome: the head was an answer, and the client may have most of the body; the log says what happened (Attempt.flag).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from ..errors import ConnectFailed, GatewayError, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamTimeout

FAILURES = ConnectFailed, UpstreamClosed, UpstreamProtocolError, UpstreamTimeout
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class Result(Enum):
    """What an attempt says of its instance. FAILURE: it could not be connected, gave no answer in time, none that is HTTP, or one
    whose status counts as a failure. IGNORED, nothing: the client left, its deadline passed, the pool was busy, a reused connection
    was over."""

    SUCCESS = auto()
    FAILURE = auto()
    IGNORED = auto()


class Resend(Enum):
    """Where the request of an attempt may be sent again."""

    NOWHERE = auto()
    SAME = auto()                                        # to the same instance, on a fresh connection
    OTHER = auto()                                       # to another instance


class Outcome(NamedTuple):
    """One for each attempt. ``reason`` is the flag of its error, or the status that counts as a failure; ``is_connect_failure``:
    the instance could not be connected."""

    result: Result
    reason: str = ""
    resend: Resend = Resend.NOWHERE
    is_connect_failure: bool = False


class Retry(NamedTuple):
    """Another attempt, ``after`` seconds."""

    after: float = 0.0


class Stop(NamedTuple):
    """No other attempt: the last one's answer or error is the call's."""


Decide = Callable[[Outcome, int, float], Retry | Stop]
SUCCESS = Outcome(Result.SUCCESS)
AT_ONCE = Retry()
STOP = Stop()


def judge(error: BaseException, has_connection: bool, method: str, is_consumed: bool) -> Outcome:
    """The outcome of an attempt that ended with ``error`` before there was a head. ``has_connection``: there was a connection;
    ``is_consumed``: some of the body was."""
    if not isinstance(error, UpstreamError):
        return Outcome(Result.IGNORED, error.flag if isinstance(error, GatewayError) else "")
    is_failure = isinstance(error, FAILURES) and not error.stale and not error.busy
    resend = Resend.NOWHERE if is_consumed else _resend(error, not has_connection or error.unsent, method)
    return Outcome(Result.FAILURE if is_failure else Result.IGNORED, error.flag, resend, is_failure and not has_connection)


def _resend(error: UpstreamError, unsent: bool, method: str) -> Resend:
    if error.stale and (unsent or method in IDEMPOTENT):
        return Resend.SAME
    return Resend.OTHER if unsent else Resend.NOWHERE


def judge_status(status: int, method: str, is_consumed: bool) -> Outcome:
    """The outcome of an attempt whose answer counts as a failure by its ``status``."""
    return Outcome(Result.FAILURE, str(status), Resend.OTHER if method in IDEMPOTENT and not is_consumed else Resend.NOWHERE)


def decide(outcome: Outcome, number: int, now: float) -> Retry | Stop:
    """What follows on attempt ``number``, the first of which is 1, that ended at ``now``: as long as the request may be sent again
    there is another attempt, at once. The instances that are left bound their number."""
    return STOP if outcome.resend is Resend.NOWHERE else AT_ONCE
