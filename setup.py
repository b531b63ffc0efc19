"""The part of the packaging that setup.cfg cannot say: which modules a compiled build compiles, and how.

The source is Python and stays the reference. With WICKETGATE_COMPILED=1 in the environment, mypyc compiles COMPILED into extension
modules, which lie beside their sources (gateway/build.py says which of the two runs). Without it nothing is compiled, and neither
mypy nor a C compiler is needed. docs/compiled.md says more.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

# What a proxied request, a hit, a composition or a view runs through (tests/test_hot_modules.py says why each is here).
COMPILED = """
    aggregate/composition aggregate/part aggregate/part_answer aggregate/target
    bus/bus bus/clock
    cache/admission cache/cache_status cache/coalesce cache/conditional cache/decide cache/entry cache/fetch cache/fetch_context
    cache/key cache/origin cache/predictor cache/request_directives cache/response_directives cache/rules cache/step
    cache/syntax cache/purging/invalidation cache/purging/purge_index cache/storage/codec cache/storage/lookups
    cache/storage/memory cache/storage/store cache/storage/tiers
    http/chunked http/closing_stream http/date http/fields http/prepared http/problem http/range_header http/tee
    incoming/accept incoming/host incoming/request incoming/trust
    loop/disconnect loop/greenlet_pool loop/readiness loop/send_queue loop/time_limit
    routing/conditions routing/match routing/pattern routing/rewrite routing/rewrite_response routing/segment_tree routing/spelling
    routing/table
    server/connection server/fastlane server/keepalive server/reader server/request_handler server/writer
    telemetry/log telemetry/metrics telemetry/observe telemetry/slot_memory
    upstream/balancer upstream/client upstream/connecting upstream/dns upstream/exchange upstream/framing upstream/head
    upstream/instance upstream/limit upstream/pool upstream/rendering upstream/retry upstream/sending upstream/stream
    upstream/tls upstream/transport
    upstream/requests/call upstream/requests/destinations upstream/requests/governor
    bodylimit deadline forward headers message respond template views wsgi
"""
GROUP = "wicketgate"                # their code is in one module, wicketgate__mypyc; the others refer to it
RECORD = f"gateway/compiled.{sys.implementation.cache_tag}.sha256"       # read by gateway/build.py


def refuse(problem: str) -> SystemExit:
    return SystemExit(f"wicketgate cannot be compiled: {problem}\nWithout WICKETGATE_COMPILED it is installed uncompiled.")


def is_wanted() -> bool:
    """Does the environment ask for a compiled build?"""
    value = os.environ.get("WICKETGATE_COMPILED", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"WICKETGATE_COMPILED: {value!r} is neither 1 (compile) nor 0 (do not)")
    return value == "1"


def requirements() -> list[str]:
    """What compiling needs: mypyc, and the libraries that the source imports, whose types it checks the source with."""
    parser = configparser.ConfigParser()
    parser.read("setup.cfg")
    listed = parser["options"]["install_requires"] + parser["options.extras_require"]["lint"]
    found = [line for line in listed.splitlines() if line and not line.startswith("#")]
    return [line for line in found if not line.startswith(("coverage", "flake8", "isort"))]


def need_python(python: tuple[int, ...] = sys.version_info[:3]) -> None:
    """The version that gateway/build.py runs compiled modules with."""
    if python < (3, 11, 2):
        raise refuse("Python %d.%d.%d may crash in compiled modules (CPython issue 99110): it takes 3.11.2 or newer." % python)


def need_requirements() -> None:
    missing = []
    for requirement in requirements():
        try:
            version(re.split("[ <>=]", requirement)[0])
        except PackageNotFoundError:
            missing.append(requirement.replace(" ", ""))
    if missing:
        raise refuse(f"missing {', '.join(missing)}.\npip brings them unless --no-build-isolation is given: {sys.executable} -m pip"
                     f" install {' '.join(map(shlex.quote, missing))}")


def need_compiler() -> None:
    """The C compiler that setuptools takes has to find Python.h and all that this includes."""
    command = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
    python = "python%d.%d" % sys.version_info[:2]
    remedy = f"On Debian or Ubuntu: apt-get install gcc libc6-dev {python}-dev; {python}-dev only for Debian's own Python."
    try:
        result = subprocess.run([*command, f"-I{sysconfig.get_path('include')}", "-fsyntax-only", "-xc", "-"], text=True,
                                input="#include <Python.h>\n", capture_output=True)
    except OSError as error:
        raise refuse(f"no C compiler ({command[0]}: {error.strerror}).\n{remedy}") from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()[-1:]
        raise refuse(f"the C compiler {command[0]} cannot use the headers of {sys.executable}: {' '.join(lines[:1])}\n{remedy}")


class CheckFirst(build):
    """Look for what compiling needs before anything is done, so that what is missing is said alone."""

    def run(self) -> None:
        need_python()
        need_compiler()
        need_requirements()
        super().run()


class Compile(build_ext):
    """Write COMPILED as C and build that, when it is this command's turn: asking for metadata compiles nothing."""

    def run(self) -> None:
        need_python()
        need_compiler()
        need_requirements()
        self.remove_former()
        from mypyc.build import mypycify
        paths = [f"gateway/{name}.py" for name in COMPILED.split()]
        self.distribution.ext_modules = mypycify([*paths, "--ignore-missing-imports"], group_name=GROUP, multi_file=True,
                                                 opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"))
        for module in self.distribution.ext_modules:     # a compiler that mypyc does not know may warn of more
            module.extra_compile_args = [option for option in module.extra_compile_args if option != "-Werror"]
        self.swig_opts = None                            # was parsed the first time
        self.finalize_options()                          # once more, for these modules
        super().run()
        self.record(set(paths))

    def remove_former(self) -> None:
        """Delete what was compiled before: a module that is no longer on the list would go on running its old code."""
        for folder in [Path(self.build_lib, "gateway"), *([Path("gateway")] if self.inplace else [])]:
            for path in [*folder.rglob(f"*{EXTENSION_SUFFIXES[0]}"), folder / Path(RECORD).name]:
                path.unlink(missing_ok=True)

    def build_extensions(self) -> None:
        """As many sources at once as there are processors: nearly all belong to one module, which setuptools builds one by one."""
        compile_in_turn = self.compiler.compile

        def compile_at_once(sources: list[str], **options: object) -> list[str]:
            with ThreadPool(os.cpu_count()) as pool:
                done = pool.map(lambda source: compile_in_turn([source], **options), sources, chunksize=1)
            return list(chain.from_iterable(done))

        self.compiler.compile = compile_at_once
        super().build_extensions()

    def record(self, compiled: set[str]) -> None:
        """The sums of all sources, in the form of sha256sum, with * at those that were compiled: who edits one afterwards is not to
        run the old code. Code of one that was not compiled is in the others all the same: constants, places in tuples."""
        record = Path(RECORD) if self.inplace else Path(self.build_lib, RECORD)
        sources = [path.as_posix() for path in sorted(Path("gateway").rglob("*.py"))]
        sums = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sources]
        record.write_text("".join(f"{found} {'*' if path in compiled else ' '}{path}\n" for found, path in zip(sums, sources)))


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    if is_wanted():
        # A front end asks for the requirements through the build backend; to install them is not for setup.py.
        asked = requirements() if "setuptools.build_meta" in sys.modules else []
        setup(ext_modules=[Extension("wicketgate__mypyc", [])], setup_requires=asked,
              cmdclass={"build": CheckFirst, "build_ext": Compile})
    else:
        setup()
