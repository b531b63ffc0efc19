"""The event loop: parked greenlets, waiting for sockets, sending together, clients that have gone."""
