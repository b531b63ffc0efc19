"""The choice of a build: *compiled*, with the modules that setup.py lists as extension modules, or *pure*, each from its source.

A compiled installation has both side by side, and Python would take the extension modules. What happens instead is decided when the
package is imported, before any other of its modules is:

==================  ==============================================================================================================
``GATEWAY_BUILD``   what runs
==================  ==============================================================================================================
unset               compiled, if it was compiled for this Python, is complete, and no source has changed since; else pure
``pure``            pure
``compiled``        compiled; where that is impossible the process ends with status 2 and says why
==================  ==============================================================================================================

So no process runs code that is not the one to be read. Whether a source has changed its sum says, of which the build keeps a record
beside the modules, in the form of ``sha256sum``: times of files mean nothing after a checkout or an installation. It has every
source of the package, as compiled code holds the constants, tuples and classes of the others as they were; ``*`` marks what was
compiled.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from typing import NamedTuple

VARIABLE = "GATEWAY_BUILD"
FOLDER = os.path.dirname(os.path.abspath(__file__))
RECORD = f"compiled.{sys.implementation.cache_tag}.sha256"
LINE = re.compile(r"([0-9a-f]{64}) ([ *])(gateway/.+)\.py\n")
EXTENSION = EXTENSION_SUFFIXES[0]
GROUP = "wicketgate__mypyc"             # named by setup.py
OLDEST = (3, 11, 2)                     # CPython 99110: an older one crashes where it reads f_back of a compiled function's frame
REMEDY = "compile again (make compiled), or remove what was compiled (make pure)"


class Build(NamedTuple):
    """``name`` is compiled or pure. ``notice`` says why what was compiled does not run, if nobody chose that, or is empty."""

    name: str
    notice: str = ""

    def __str__(self) -> str:
        return f"{self.name} build, Python {platform.python_version()}"


class Impossible(ValueError):
    """GATEWAY_BUILD asks for what cannot be."""


def decide(choice: str, folder: str = FOLDER, python: tuple[int, ...] = sys.version_info[:3]) -> Build:
    """The build to run of the package in ``folder``, by the value of GATEWAY_BUILD. Raises Impossible."""
    if choice not in ("", "pure", "compiled"):
        raise Impossible(f"{choice!r} is neither pure nor compiled")
    if choice == "pure":
        return Build("pure")
    if not was_compiled(folder):
        problem, notice = f"this installation was not compiled for Python {platform.python_version()}", ""
    else:
        problem = notice = too_old(python) or outdated(folder)
    if problem and choice == "compiled":
        raise Impossible(problem)
    return Build("pure", notice and f"{notice}: the sources run") if problem else Build("compiled")


def was_compiled(folder: str = FOLDER) -> bool:
    """Is there anything compiled for this Python?"""
    return os.path.exists(os.path.join(folder, RECORD)) or bool(extensions(folder))


def too_old(python: tuple[int, ...]) -> str:
    """Why this version cannot run compiled modules: a sentence, empty when it can."""
    if python >= OLDEST:
        return ""
    return "Python %d.%d.%d may crash in compiled modules (CPython issue 99110), 3.11.2 does not" % python


def extensions(folder: str) -> set[str]:
    """The extension modules for this Python below ``folder``."""
    return {os.path.join(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(EXTENSION)}


def outdated(folder: str = FOLDER) -> str:
    """What is wrong with what was compiled: a sentence, empty when it is complete and what the sources say."""
    above = os.path.dirname(folder)
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8", errors="replace") as file:
            record = [LINE.fullmatch(line) for line in file]
    except OSError as error:
        return f"the compiled modules are not complete: {RECORD}: {error.strerror}; {REMEDY}"
    entries = [entry.groups() for entry in record if entry is not None]
    compiled = {os.path.join(above, name + EXTENSION) for _, mark, name in entries if mark == "*"}
    if not compiled or len(entries) < len(record):
        return f"the compiled modules are not complete: {RECORD} is not one of this version; {REMEDY}"
    wrong = compiled ^ extensions(folder)                # lost, or of another build
    if not os.path.isfile(group := os.path.join(above, GROUP + EXTENSION)):
        wrong.add(group)
    if wrong:
        return f"the compiled modules are not complete: see {listing([os.path.relpath(path, above) for path in wrong])}; {REMEDY}"
    changed = [f"{name}.py" for found, _, name in entries if checksum(os.path.join(above, f"{name}.py")) != found]
    return f"{listing(changed)} changed since being compiled; {REMEDY}" if changed else ""


def listing(paths: list[str]) -> str:
    """At most three of them, and how many more there are."""
    first, more = sorted(paths)[:3], len(paths) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def edited_files(build: Build, folder: str = FOLDER) -> list[str]:
    """The sources that have other files loaded in their place by ``build``: those which were compiled, when that is what runs."""
    loaded = extensions(folder) if build.name == "compiled" else ()
    return sorted(path.removesuffix(EXTENSION) + ".py" for path in loaded)


def checksum(path: str) -> str:
    """Empty for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


@cache
def own_version() -> str:
    """The version that is installed."""
    try:
        return metadata.version("wicketgate")
    except metadata.PackageNotFoundError:
        return "unknown"


class SourceFinder:
    """A finder of modules that sees the package's .py files alone, and not the extension modules beside them."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: object = None, /) -> ModuleSpec | None:
        if path is None or not name.startswith("gateway."):
            return None
        specs = (source_files(folder).find_spec(name) for folder in path)
        return next((spec for spec in specs if spec is not None), None)

    @classmethod
    def invalidate_caches(cls) -> None:
        source_files.cache_clear()


@cache
def source_files(folder: str) -> FileFinder:
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


class GroupFinder:
    """A finder of the module that all compiled modules refer to: the one beside this package, wherever else one may be. An editable
    installation finds the package alone, and there may be another one in the current directory."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: object = None, /) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [os.path.dirname(FOLDER)]) if name == GROUP else None


def start() -> Build:
    """Decide for this process, and see to it that it happens. A value that cannot be used ends it with status 2."""
    try:
        build = decide(os.environ.get(VARIABLE, ""))
    except Impossible as error:
        print(f"gateway: {VARIABLE}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if build.name == "compiled":
        sys.meta_path.insert(0, GroupFinder)
    elif was_compiled():
        sys.meta_path.insert(0, SourceFinder)
    return build


RUNNING = start()
