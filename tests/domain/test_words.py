"""Plain English: prose in code, tests and docs has no banned phrase."""

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("forecaster", "service", "pipelines", "benchmarks", "deploy", "tests")
PAGES = ("README.md", "CHANGELOG.md", "docs")
BANNED = (
    *("whoever", "whosoever", "thereof", "what came", "such asking", "the how manieth", "of those that"),
    *("is told", "are told", "is said", "are said", "be had", "as it came", "as they came"),
)
_PATTERN = re.compile(
    r"\b(" + "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in BANNED) + r")\b", re.IGNORECASE
)
# from Python 3.12 on, the text of an f-string is a token of its own
_PROSE = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _prose(source: str) -> str:
    """Return the strings, comments and test names of Python source in their lines, with blanks instead of code."""
    lines = [[" "] * len(line) for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_test_name = token.type == tokenize.NAME and token.string.startswith("test_")
        if token.type not in _PROSE and not is_test_name:
            continue
        text = token.string.replace("#", " ") if token.type == tokenize.COMMENT else token.string
        text = text.replace("_", " ") if is_test_name else text
        for number, part in enumerate(text.split("\n")):
            begin = token.start[1] if number == 0 else 0
            line = lines[token.start[0] - 1 + number]
            line[begin : begin + len(part)] = part
    return "\n".join("".join(line) for line in lines)


def _banned_phrases(text: str) -> list[str]:
    """Return each banned phrase with its line number, also across a line break."""
    return [f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}" for found in _PATTERN.finditer(text)]


def _files() -> list[Path]:
    # this module quotes the phrases
    modules = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py") if file != Path(__file__)]
    pages = [
        file for name in PAGES for file in ((ROOT / name).rglob("*.md") if (ROOT / name).is_dir() else [ROOT / name])
    ]
    return sorted([*modules, *pages])


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_no_banned_phrase(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert _banned_phrases(_prose(text) if path.suffix == ".py" else text) == []


def test_scan_finds_phrases_in_comments_strings_and_test_names_only() -> None:
    source = '''"""Read what
came."""
whoever = 1
raise ValueError(f"{whose} of those that")
# of those
# that Thereof
def test_what_came(is_told): pass
'''
    assert _banned_phrases(_prose(source)) == [
        "1: 'what\\ncame'",
        "4: 'of those that'",
        "5: 'of those\\n  that'",
        "6: 'Thereof'",
        "7: 'what came'",
    ]
