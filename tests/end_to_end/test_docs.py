"""The README and the docs are true: their tree is the tree, their keys are the keys, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from forecaster.domain.config import Config
from forecaster.training.config import TrainConfig
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readmes_tree_names_each_file() -> None:
    tree = README.split("## The tree")[1].split("## Limits")[0]
    named = set(re.findall(r"\b([\w-]+\.(?:py|yaml|md))\b", tree))
    packages = [ROOT / name for name in ("forecaster", "service", "pipelines", "benchmarks", "deploy")]
    modules = {path.name for package in packages for path in package.rglob("*.py")} - {"__init__.py", "__main__.py"}
    listed = {
        *modules,
        *(path.name for path in (ROOT / "docs").glob("*.md")),
        *(path.name for path in (ROOT / "pipelines" / "configs").iterdir()),
    }
    assert listed - named == {"neuralforecast_training.py", "neuralforecast_backtest.py"}
    assert named <= listed


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_key_of_a_training_is_documented() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    missing = {
        key for key in _keys(TrainConfig) if f"`{key}`" not in text and f"`.{key.rpartition('.')[2]}`" not in text
    }
    assert not missing


def _keys(model: type[Config], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Config)
        keys += _keys(kind, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return keys
