"""What every server answers from memory, and where the upstream is."""

import os

HELLO = "Hello, world! " * 73                            # 1022 bytes
UPSTREAM = os.environ.get("BENCH_UPSTREAM", "")    # http://127.0.0.1:port
