"""The bits of Entry.flags: what a stored answer's own header says about its use (RFC 9111 section 5.2.2)."""

from __future__ import annotations

MUST_REVALIDATE = 1          # must-revalidate, proxy-revalidate or s-maxage: never stale, not even instead of an error
NO_CACHE = 2                 # every use needs a validation first
IMMUTABLE = 4                # RFC 8246: while it is fresh, a reload is no reason to ask again
HEURISTIC = 8                # its lifetime was guessed
POLICY = 16                  # its lifetime is the route's, not the header's
PUBLIC = 32                  # it says itself that it is for everybody, whoever asked for it

GUESSED = HEURISTIC | POLICY     # the answer itself did not say that others may have it for so long

NAMES = {MUST_REVALIDATE: "must-revalidate", NO_CACHE: "no-cache", IMMUTABLE: "immutable", HEURISTIC: "heuristic",
         POLICY: "policy", PUBLIC: "public"}


def names_of(flags: int) -> str:
    """The bits in words, for people."""
    return ", ".join(name for bit, name in NAMES.items() if flags & bit)
