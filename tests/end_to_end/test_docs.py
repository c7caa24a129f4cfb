"""The docs match the code: the tree names each file, the tables name each key, and each link has a target."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain import exits
from forecaster.domain.config import Config, build_config
from forecaster.fleet.plan import FleetConfig
from forecaster.inference.batch import BatchConfig
from forecaster.models.network import ModelConfig
from forecaster.promotion.gate import GateConfig
from forecaster.scheduling.config import JobConfig, Pipeline, ScheduleConfig
from forecaster.training.config import TrainConfig
from pipelines.__main__ import COMMANDS
from pipelines.fetch import FetchConfig
from pipelines.retrain import RetrainConfig
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# messages of MLflow, ONNX Runtime and gzip, which the errors quote
QUOTED = {"out-of-date database schema", "Failed to allocate memory", "ended before the end-of-stream marker"}
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6000


def test_the_tree_names_each_file() -> None:
    packages = [ROOT / name for name in ("forecaster", "service", "pipelines", "benchmarks", "deploy")]
    modules = {path for package in packages for path in package.rglob("*.py") if not path.name.startswith("__")}
    configs = (ROOT / "pipelines" / "configs").iterdir()
    assert _files_in_the_tree() == {str(path.relative_to(ROOT)) for path in (*modules, *configs)}


def _files_in_the_tree() -> set[str]:
    """Return the path of each file in the tree: a folder holds the names on its line and on deeper lines below it."""
    files: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in (DOCS / "design.md").read_text().split("## The files")[1].splitlines():
        indent = len(line) - len(line.lstrip())
        folders = [(depth, name) for depth, name in folders if depth < indent]
        folder = re.match(r"\s+([\w-]+/)", line)
        if folder:
            folders.append((indent, folder[1]))
        path = "".join(name for _, name in folders)
        files |= {path + name for name in re.findall(r"\b[\w-]+\.(?:py|yaml)\b", line)}
    return files


def test_the_layers_are_those_that_are_checked() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    checked = re.findall(r'^    "(.+)",$', pyproject.split("\nlayers = [")[1].split("]")[0], re.MULTILINE)
    section = (DOCS / "design.md").read_text().split("## Layers\n")[1].split("\n## ")[0]
    assert re.findall(r"^    (\S.*)$", section, re.MULTILINE) == checked


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_has_a_target(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), f"{target}#{anchor}"


def test_the_navigation_names_each_page() -> None:
    configured = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert set(_leaves(configured["nav"])) == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda path: path.name)
def test_the_reference_names_what_exists(page: Path) -> None:
    for identifier in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
        module, _, name = identifier.rpartition(".")
        if not _source(identifier).exists():
            body = ast.parse(_source(module).read_text()).body
            assert name in {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}, identifier


def test_every_key_of_a_training_is_documented() -> None:
    text = (DOCS / "models.md").read_text()
    missing = {
        key for key in _keys(TrainConfig) if f"`{key}`" not in text and f"`.{key.rpartition('.')[2]}`" not in text
    }
    assert not missing


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("evaluation.md", BacktestConfig),
        ("evaluation.md", GateConfig),
        ("market-data.md", FetchConfig),
        ("operations/batch-forecasts.md", BatchConfig),
        ("operations/scale-out.md", FleetConfig),
        ("operations/scheduling.md", JobConfig),
        ("operations/scheduling.md", RetrainConfig),
        ("operations/scheduling.md", ScheduleConfig),
    ],
)
def test_every_key_of_a_section_is_documented(page: str, model: type[Config]) -> None:
    text = (DOCS / page).read_text()
    assert {key for key in model.model_fields if not re.search(rf"`{key}\b", text)} == set()


def test_each_pipeline_that_a_schedule_runs_is_documented() -> None:
    (row,) = re.findall(r"^\| `run` \|.*$", (DOCS / "operations" / "scheduling.md").read_text(), re.MULTILINE)
    assert set(get_args(Pipeline)) <= set(re.findall(r"`(\w+)`", row))


def test_recipes_in_the_guide_are_valid() -> None:
    whole, *parts = re.findall(r"```yaml\n(.*?)```", (DOCS / "models.md").read_text(), re.DOTALL)
    assert parts
    for part in ("", *parts):
        raw = yaml.safe_load(whole)["train"] | (yaml.safe_load(part) or {})
        assert build_config(raw, TrainConfig, "models.md").name == "sales"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_example_configurations_exist(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"(?:^ {4}|^```bash\n|`)forecaster ([a-z]+)", text, re.MULTILINE)) <= {*COMMANDS}
    examples = {path.name for path in (ROOT / "pipelines" / "configs").iterdir()}
    assert set(re.findall(r"(?<!benchmarks/)configs/(\w+\.yaml)", text)) <= examples


def test_each_variable_of_the_compose_file_is_documented() -> None:
    variables = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    page = (DOCS / "operations" / "compose.md").read_text()
    assert {name for name in variables if f"`{name}`" not in page} == set()


def test_each_exit_status_is_documented() -> None:
    section = (DOCS / "operations" / "troubleshooting.md").read_text().split("## Exit statuses\n")[1].split("\n## ")[0]
    documented = {int(status) for status in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert documented == {status for name, status in vars(exits).items() if name.isupper()}


def test_each_documented_error_message_exists_in_the_program() -> None:
    section = (DOCS / "operations" / "troubleshooting.md").read_text().split("## Error messages\n")[1]
    cells = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    messages = {message for cell in cells for message in re.findall(r"`([^`]+)`", cell)}
    # an ellipsis stands for values
    fragments = {part.strip() for message in messages - QUOTED for part in message.split("…")} - {""}
    literals = _literals()
    assert {part for part in fragments if not any(part in literal for literal in literals)} == set()


def _literals() -> set[str]:
    """Return the strings of the program, without docstrings."""
    literals = set()
    for folder in ("forecaster", "service", "pipelines", "tests/stack"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
            constants = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
            literals |= {node.value for node in constants if isinstance(node.value, str)}
    return literals


def _source(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def _leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = list(nav.values()) if isinstance(nav, dict) else nav
    assert isinstance(children, list)
    return [leaf for child in children for leaf in _leaves(child)]


def _keys(model: type[Config], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        # the parts of a network, which `auto` leaves open
        kind = ModelConfig if (model, name) == (TrainConfig, "model") else field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Config)
        keys += _keys(kind, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return keys
