"""Calls to other services: connections, HTTP/1.1 framing, pools, names, balancing. ``client.Upstream`` is the door."""
