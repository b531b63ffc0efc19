"""What an attempt came to, and whether there is another. Pure.

=====================================  ==============================================================================
the attempt                            then
=====================================  ==============================================================================
sent nothing: no connection            another instance, whatever the request is
sent nothing on a used connection      a fresh connection to the same instance, whatever the request is
a used connection ended silently       the same, if the method is idempotent (RFC 9110 section 9.2.2): its time was most
                                       likely over while the request was on its way (RFC 9112 section 9.3.1)
anything else                          the end
=====================================  ==============================================================================

A body of which something was consumed cannot be sent again, and ends it too.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from ..errors import ConnectFailed, GatewayError, UpstreamError, UpstreamTimeout

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class Result(Enum):
    """What an attempt says of its instance; IGNORED is nothing: the client left, the deadline was over, we had no room."""

    SUCCESS = auto()
    FAILURE = auto()
    IGNORED = auto()


class Outcome(NamedTuple):
    """One for each attempt. ``unsent``: not a byte of the request has left. ``stale``: its connection had served before and ended
    before a byte of the answer came. ``reason`` is the flag of its error."""

    result: Result
    reason: str = ""
    unsent: bool = False
    stale: bool = False


class Next(Enum):
    STOP = auto()
    FRESH = auto()                                       # the same instance, on a fresh connection
    OTHER = auto()                                       # another instance


SUCCESS = Outcome(Result.SUCCESS)


def judge(error: BaseException, connected: bool) -> Outcome:
    """The outcome of an attempt that ended with ``error`` before there was a head; ``connected``: there was a connection. An error
    of an upstream keeps it."""
    if not isinstance(error, UpstreamError):
        return Outcome(Result.IGNORED, error.flag if isinstance(error, GatewayError) else "", not connected)
    failed = not connected and isinstance(error, (ConnectFailed, UpstreamTimeout))
    error.outcome = Outcome(Result.FAILURE if failed else Result.IGNORED, error.flag,
                            not connected or error.unsent, error.stale)
    return error.outcome


def decide(outcome: Outcome | None, method: str, fresh: bool, consumed: bool) -> Next:
    """``fresh``: the attempt was made on a fresh connection after one on a used connection; ``consumed``: of the body. Without an
    outcome the answer had begun."""
    if outcome is None or consumed:
        return Next.STOP
    if outcome.stale and not fresh and (outcome.unsent or method in IDEMPOTENT):
        return Next.FRESH
    return Next.OTHER if outcome.unsent else Next.STOP
