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
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from ..errors import ConnectFailed, GatewayError, UpstreamError, UpstreamTimeout

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class Result(Enum):
    """What an attempt says of its instance; IGNORED is nothing: the client left, the deadline passed, we had no room."""

    SUCCESS = auto()
    FAILURE = auto()
    IGNORED = auto()


class Resend(Enum):
    """Where the request of an attempt may be sent again."""

    NOWHERE = auto()
    SAME = auto()                                        # to the same instance, on a fresh connection
    OTHER = auto()                                       # to another instance


class Outcome(NamedTuple):
    """One for each attempt. ``reason`` is the flag of its error, or the status that counts as a failure."""

    result: Result
    reason: str = ""
    resend: Resend = Resend.NOWHERE


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
    is_failure = not has_connection and isinstance(error, (ConnectFailed, UpstreamTimeout))
    resend = Resend.NOWHERE if is_consumed else _resend(error, not has_connection or error.unsent, method)
    return Outcome(Result.FAILURE if is_failure else Result.IGNORED, error.flag, resend)


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
