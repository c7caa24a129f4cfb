"""Plain English: prose in code and docs has no banned phrase."""

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("forecaster", "service", "pipelines", "benchmarks", "deploy")
PAGES = ("README.md", "CHANGELOG.md", "docs")
BANNED = ("whoever", "whosoever", "thereof", "what came", "such asking", "the how manieth", "of those that")
_PATTERN = re.compile(
    r"\b(" + "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in BANNED) + r")\b", re.IGNORECASE
)
# from Python 3.12 on, the text of an f-string is a token of its own
_PROSE = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _prose(source: str) -> str:
    """Return the strings and comments of Python source in their lines, with blanks instead of code."""
    lines = [[" "] * len(line) for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _PROSE:
            continue
        text = token.string.replace("#", " ") if token.type == tokenize.COMMENT else token.string
        for number, part in enumerate(text.split("\n")):
            begin = token.start[1] if number == 0 else 0
            line = lines[token.start[0] - 1 + number]
            line[begin : begin + len(part)] = part
    return "\n".join("".join(line) for line in lines)


def _banned_phrases(text: str) -> list[str]:
    """Return each banned phrase with its line number, also across a line break."""
    return [f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}" for found in _PATTERN.finditer(text)]


def _files() -> list[Path]:
    modules = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    pages = [
        file for name in PAGES for file in ((ROOT / name).rglob("*.md") if (ROOT / name).is_dir() else [ROOT / name])
    ]
    return sorted([*modules, *pages])


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_no_banned_phrase(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert _banned_phrases(_prose(text) if path.suffix == ".py" else text) == []


def test_scan_finds_phrases_in_comments_docstrings_and_messages_only() -> None:
    source = '''"""Read what
came."""
whoever = 1
raise ValueError(f"{whose} of those that")
# of those
# that Thereof
'''
    assert _banned_phrases(_prose(source)) == [
        "1: 'what\\ncame'",
        "4: 'of those that'",
        "5: 'of those\\n  that'",
        "6: 'Thereof'",
    ]
