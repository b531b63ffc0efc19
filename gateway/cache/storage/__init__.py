"""Where the HTTP cache keeps its answers: the worker's memory and the tiers behind it."""
