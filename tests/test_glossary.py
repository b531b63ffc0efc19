"""docs/glossary.md: each file it names exists, each word is used there, and the words are the pipeline's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import TARGETS

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"\| (.+?) \| (?:(.+) \| )?`([\w./]+)` \|")


def rows(heading: str) -> list[tuple[str, str]]:
    """The words or features of a table, with their files."""
    section = (ROOT / "docs" / "glossary.md").read_text().partition(f"# {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [(match[1], match[3]) for line in lines for match in [ROW.fullmatch(line)] if match or pytest.fail(line)]


WORDS, FEATURES = rows("Glossary"), rows("Find a feature")


def used(word: str, text: str) -> bool:
    """As a word of a sentence, a part of a name, or with a hyphen."""
    stems = re.split(r"[ -]", word.partition(" (")[0].partition(", ")[0].lower().removesuffix("s"))
    return re.search(r"[ _-]?".join(map(re.escape, stems)), text.lower()) is not None


@pytest.mark.parametrize("word, file", WORDS)
def test_each_word_is_used_in_the_file_that_is_named(word, file):
    assert used(word, (ROOT / "gateway" / file).read_text())


@pytest.mark.parametrize("feature, file", FEATURES)
def test_each_feature_is_in_a_file(feature, file):
    assert (ROOT / "gateway" / file).is_file()


def test_words_are_in_order_and_each_is_there_once():
    words = [word.lower() for word, _ in WORDS]
    assert words == sorted(set(words))
    assert len(FEATURES) >= 20 and len(dict(FEATURES)) == len(FEATURES)


def test_each_target_is_a_feature_that_can_be_found():
    files = " ".join(file for _, file in FEATURES)
    names = {"upstream": "forward", "view": "views", "handler": "extension"}
    assert [target for target in TARGETS if names.get(target, target) not in files] == []


@pytest.mark.parametrize("word, text, found", [
    ("fast lane", "the fast lane", True), ("fast lane", "class FastLane", True), ("fast lane", "fast_lane()", True),
    ("write-behind", "write_behind.py", True), ("variants", "Variant", True), ("entry (of the cache)", "an Entry", True),
    ("own step, own target", "OwnStep", True), ("lease", "a release", True), ("mark", "remar", False), ("tier", "ti er", False)])
def test_a_word_is_found_as_it_is_written(word, text, found):
    assert used(word, text) is found


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "gateway").rglob("*.py")]
FILE = re.compile(r"(?<![\w./])(?:gateway/)?((?:[a-z]\w*/)*[a-z]\w*\.py)\b")
EXAMPLES = {"limit.py", "tests/test_limit.py"}           # of a new step, in CONTRIBUTING.md


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in PAGES if path.name != "CHANGELOG.md"))
def test_the_files_that_a_page_or_a_docstring_names_exist(page):
    """From its own folder or one above, in the package or in the repository."""
    folders = [*(ROOT / page).parents][:len(Path(page).parents)] + [ROOT / "gateway"]
    names = {*FILE.findall((ROOT / page).read_text())} - EXAMPLES
    assert [name for name in names if not any((folder / name).is_file() for folder in folders)] == []
