"""The lease of a key: the right of one worker to fetch what is under it, while the others wait for what it gets.

A lease is asked for as long as the request may wait for the shared tiers. When the answer is not there by then, the request goes on
as if it had the lease, at worst two workers fetch the same. Whatever ends a lease is written beside the requests (writer.py).
"""

from __future__ import annotations

import secrets

from ..tasks import spawn
from .tiers import Leasing
from .writer import Writer, Written


class Lease:
    """Holds until it is released, or its time is over. Only its own holder releases it. No method waits."""

    __slots__ = ("key", "token", "writer", "taken", "over")

    def __init__(self, key: str, token: str, writer: Writer) -> None:
        self.key = key
        self.token = token
        self.writer = writer
        self.taken: bool | None = None                   # what the tier said
        self.over = False

    def release(self) -> None:
        self.over = True
        self._add("release", self.key, self.token)

    def extend(self, seconds: float) -> None:
        """Hold it for ``seconds`` from now on."""
        self._add("extend", self.key, self.token, seconds)

    def _add(self, *operation: object) -> None:
        self.writer.add(name_of(self.key), Written(lambda: operation, held=self))

    def __repr__(self) -> str:
        return f"Lease({self.key})"


def name_of(key: str) -> str:
    """Its name in the queue of the writer. No record has one like it."""
    return f"lease\n{key}"


def leased(tier: Leasing, writer: Writer, key: str, seconds: float, patience: float) -> Lease | None:
    """The lease of ``key`` for ``seconds``; None when another worker has it, or ``tier`` gives none. Waits ``patience`` seconds."""
    before = writer.waiting(name_of(key))
    if before is not None and before.held.over and before.held.taken and writer.withdraw(name_of(key)) is not None:
        lease = Lease(key, before.held.token, writer)    # our own, about to be released: it goes on
        lease.taken = True
        lease.extend(seconds)
        return lease
    lease = Lease(key, secrets.token_hex(8), writer)
    if patience <= 0:
        writer.add(name_of(key), Written(lambda: ("lease", key, lease.token, seconds), held=lease))
        return lease
    asking = spawn(ask, tier, lease, seconds)
    try:
        asking.join(patience)
    except BaseException:
        lease.release()
        raise
    return lease if lease.taken or not asking.dead else None


def ask(tier: Leasing, lease: Lease, seconds: float) -> None:
    lease.taken = tier.lease(lease.key, lease.token, seconds)
    if lease.taken and lease.over:                       # released before it was there
        lease.release()
