"""Configurations: every mistake is named by the path that the file spells."""

from pathlib import Path

import pytest
import yaml

from forecaster.domain.config import Config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.training.recipe import TrainConfig
from tests.conftest import ROOT

GOOD = """
name: sine
data: {source: sine, sines: [{period: 12}, {period: 20}]}
input_size: 24
horizon: 4
transforms: [{kind: standardize}]
model: {cell: gru}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def test_overrides_reach_into_keys_and_lists(file: Path) -> None:
    config = load_config(file, TrainConfig, ["model.widths=[8, 4]", "data.sines.1.period=30", "fit.epochs=3"])
    assert config.model.widths == (8, 4)
    assert config.data.source == "sine"
    assert [sine.period for sine in config.data.sines] == [12, 30]
    assert config.fit.epochs == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.cel=gru", "model.cel: unknown key"),
        ("data.sines.0.hight=3", "data.sines.0.hight: unknown key"),
        ("transforms.0.kind=box_cox", "transforms.0: "),
        ("model.cell=cnn", "model.cell: must be one of simple_rnn, lstm, gru, got 'cnn'"),
        ("model.widths=[0]", "model.widths: each width must be at least 1"),
        ("split={train: 0.9}", "split: train + validation + calibration + test must be 1"),
        ("horizon=0", "horizon: "),
        ("seed=4294967296", "seed: "),
        ("horizon=null", "horizon: "),
        ("fit.learning_rate=.nan", "fit.learning_rate: "),
        ("data.noise=1e999", "data.noise: "),
        ("data.period=12", "data.period: unknown key"),
        ("data.freq=fortnight", "data.freq: freq: 'fortnight' is not a frequency"),
        ("name=../evil", "name: "),
        ("transforms=[{kind: standardize}, {kind: log}]", "log must come first"),
        ("data.sines.2.period=3", "'2' is not an item of a list of 2"),
        ("horizon.steps=3", "'horizon' holds a value"),
        ("horizon", "write dotted.key=value"),
        ("horizon=[", "not YAML"),
    ],
)
def test_a_mistake_is_named_by_its_full_path(file: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, TrainConfig, [override])
    assert said in str(error.value)


def test_all_mistakes_are_named_at_once(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"horizon: .*; modle: unknown key|modle: unknown key.*; horizon: "):
        load_config(file, TrainConfig, ["horizon=0", "modle=lstm"])


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path, TrainConfig)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml", TrainConfig)


SHIPPED = [path for room in ("pipelines", "benchmarks") for path in sorted((ROOT / room / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_configurations_that_ship_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecaster.lifecycle.backtest import BacktestConfig
    from forecaster.lifecycle.batch import BatchConfig
    from forecaster.lifecycle.fleet.plan import FleetConfig
    from forecaster.scheduling.config import ScheduleConfig
    from pipelines.fetch import FetchConfig
    from pipelines.promote import PromoteConfig
    from pipelines.retrain import RetrainConfig
    from pipelines.synthesize import SynthesizeConfig

    kinds: dict[str, type[Config]] = {
        "fetch": FetchConfig,
        "forecast": BatchConfig,
        "retrain": RetrainConfig,
        "train": TrainConfig,
        "backtest": BacktestConfig,
        "fleet": FleetConfig,
        "promote": PromoteConfig,
        "synthesize": SynthesizeConfig,
        "schedule": ScheduleConfig,
    }
    # the files that a schedule names are there
    monkeypatch.chdir(ROOT)
    if path.parents[1].name == "benchmarks":
        load_config(path, TrainConfig)
    else:
        for section in yaml.safe_load(path.read_text()):
            load_config(path, kinds[section], section=section)


def test_a_job_has_sections_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"train": yaml.safe_load(GOOD), "promote": {"name": "sine"}}))
    assert load_config(path, TrainConfig, ["horizon=5"], "train").horizon == 5
    with pytest.raises(ConfigError, match=r"job\.yaml: has no section 'fetch'; it has"):
        load_config(path, TrainConfig, section="fetch")
    with pytest.raises(ConfigError, match=r"job\.yaml, train: horizon: "):
        load_config(path, TrainConfig, ["horizon=0"], "train")
