"""Negotiation of the content coding of an answer (RFC 9110 section 12.5.3). Pure."""

from __future__ import annotations

from collections.abc import Collection

from .problem import quality_values

SUFFIXES = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}      # of files that are compressed beside others; of equal weight the first


def preferred_coding(accept: str, choices: Collection[str]) -> str:
    """The one of ``choices`` that the client prefers, in our order where it has no preference; empty when it accepts none of them
    or prefers the answer uncoded."""
    weights = quality_values(accept)
    if "x-gzip" in weights:
        weights.setdefault("gzip", weights["x-gzip"])
    weight_of = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in choices}
    best = max(weight_of.values(), default=0.0)
    if best <= 0.0 or best < weights.get("identity", 0.0):
        return ""
    return next(coding for coding in weight_of if weight_of[coding] == best)
