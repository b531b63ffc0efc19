"""Ordinary ``requests`` calls over the upstreams. ``adapter`` is the door."""
