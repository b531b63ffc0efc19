"""The part of the packaging that setup.cfg cannot say: which modules a compiled build compiles.

The source is Python and stays the reference. With WICKETGATE_COMPILED=1 in the environment, mypyc compiles COMPILED from it into
one extension module beside the files; without it, nothing is compiled and no compiler is needed.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import setup

# What a proxied request, a hit, a composition or a view runs through (tests/test_compiled.py says how often).
COMPILED = """
    aggregate/composition aggregate/part aggregate/part_answer aggregate/target
    cache/admission cache/cache_status cache/coalesce cache/conditional cache/decide cache/entry cache/fetch cache/fetch_context
    cache/key cache/origin cache/predictor cache/request_directives cache/response_directives cache/step cache/syntax
    cache/purging/invalidation cache/purging/marks cache/storage/codec cache/storage/lookups cache/storage/memory
    cache/storage/store cache/storage/tiers
    http/chunked http/closing_stream http/codings http/date http/fields http/prepared http/problem http/range_header http/tee
    incoming/accept incoming/host incoming/request incoming/trust
    loop/alarm loop/disconnect loop/greenlet_pool loop/monotonic_clock loop/readiness loop/send_queue loop/time_limit
    routing/conditions routing/match routing/notation routing/pattern routing/rewrite routing/rewrite_response routing/segment_tree
    routing/spelling routing/table
    server/connection server/fastlane server/keepalive server/reader server/request_handler server/writer
    telemetry/log telemetry/metrics telemetry/observe telemetry/slot_memory
    upstream/balancer upstream/client upstream/connecting upstream/dns upstream/exchange upstream/framing upstream/head
    upstream/instance upstream/limit upstream/pool upstream/rendering upstream/retry upstream/sending upstream/stream
    upstream/transport
    upstream/requests/call upstream/requests/destinations upstream/requests/redirects
    backoff bodylimit breaker deadline forward headers message request_copies respond template views wsgi
"""


def extensions() -> list[object]:
    """The extension modules of a compiled build."""
    from mypyc.build import mypycify
    paths = [f"gateway/{name}.py" for name in COMPILED.split()]
    return mypycify([*paths, "--ignore-missing-imports"], group_name="wicketgate", multi_file=True,
                    opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"))


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    if os.environ.get("WICKETGATE_COMPILED") == "1":
        setup(ext_modules=extensions(), setup_requires=["mypy"])
    else:
        setup()
