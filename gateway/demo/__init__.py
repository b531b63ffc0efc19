"""``gateway demo``: three slow synchronous services, two instances of the gateway before them, nginx before those.

start.py starts and watches all of it, processes.py its child processes; services.py and shop.py are the applications.
"""

from __future__ import annotations


def run(port: int = 8000, nginx: bool = True) -> int:
    """Run the demo until Ctrl-C or SIGTERM, on ``port`` and those counted from it. Returns the exit status of the command."""
    from .start import run  # the services and views import this package too, and need none of it

    return run(port, nginx)
