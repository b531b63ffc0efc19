"""The admin listener: health, metrics, routes, configuration and the cache, for operators and probes."""
