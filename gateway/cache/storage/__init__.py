"""Storage of the HTTP cache: the worker's memory and the tiers behind it."""
