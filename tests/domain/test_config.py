"""Configurations: each mistake is reported by its path in the file."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.data.sources.synthetic import RandomWalkSource, SineSource
from forecaster.domain.config import Config, load_config, read_yaml
from forecaster.domain.errors import ConfigError
from forecaster.training.config import TrainConfig
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


def test_old_key_for_the_loss_leaves_an_empty_model_to_be_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="model: "):
        load_config(file, TrainConfig, ["model=null", "fit.loss=huber"])


def test_overrides_set_nested_keys_and_list_items(file: Path) -> None:
    config = load_config(file, TrainConfig, ["model.widths=[8, 4]", "data.sines.1.period=30", "fit.epochs=3"])
    assert config.model.encoder.widths == (8, 4)
    assert config.data.source == "sine"
    assert [sine.period for sine in config.data.sines] == [12, 30]
    assert config.fit.epochs == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.cel=gru", "model.cel: unknown key"),
        ("data.sines.0.hight=3", "data.sines.0.hight: unknown key"),
        ("transforms.0.kind=box_cox", "transforms.0: "),
        ("model={head: {loss: huber}}", "model.head: lacks 'kind', which says what the other keys belong to; set it"),
        ("model.cell=cnn", "model.cell: must be one of simple_rnn, lstm, gru, gru_reset_before, got 'cnn'"),
        ("model.widths=[0]", "model.widths.0: "),
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
        ("data.sines.2.period=3", "'2' is not an index of a list of 2 items"),
        ("horizon.steps=3", "'horizon' is a value, not a mapping"),
        ("horizon", "write dotted.key=value"),
        ("horizon=[", "not YAML"),
    ],
)
def test_error_names_the_full_path(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, TrainConfig, [override])
    assert message in str(error.value)


def test_error_lists_all_mistakes(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"horizon: .*; modle: unknown key|modle: unknown key.*; horizon: "):
        load_config(file, TrainConfig, ["horizon=0", "modle=lstm"])


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_file_without_a_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path, TrainConfig)


def test_error_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml", TrainConfig)


SHIPPED = [
    path for package in ("pipelines", "benchmarks") for path in sorted((ROOT / package / "configs").glob("*.yaml"))
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecaster.backtesting.backtest import BacktestConfig
    from forecaster.fleet.plan import FleetConfig
    from forecaster.inference.batch import BatchConfig
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
    # a schedule names its files relative to the root
    monkeypatch.chdir(ROOT)
    if path.parents[1].name == "benchmarks":
        load_config(path, TrainConfig)
    else:
        for section in yaml.safe_load(path.read_text()):
            load_config(path, kinds[section], section=section)


def test_load_config_reads_a_section_and_names_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"train": yaml.safe_load(GOOD), "promote": {"name": "sine"}}))
    assert load_config(path, TrainConfig, ["horizon=5"], "train").horizon == 5
    with pytest.raises(ConfigError, match=r"job\.yaml: has no section 'fetch'; add it, or choose from"):
        load_config(path, TrainConfig, section="fetch")
    with pytest.raises(ConfigError, match=r"job\.yaml, train: horizon: "):
        load_config(path, TrainConfig, ["horizon=0"], "train")


DEEP = "name: " + "[" * 2000 + "]" * 2000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 20)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "horizon: 5\n", "duplicate key 'horizon'"),
        ("name: sine\nfit: {epochs: 1, 'epochs': 2}\n", "duplicate key 'epochs'"),
        ("seed: " + "1" * 5000, "'1111111111.*' cannot be read"),
        ("seed: 0x" + "f" * 5000, "is beyond 64 bits"),
        ("start: 2026-02-30", "'2026-02-30' cannot be read"),
        ("start: !!timestamp soon", "'soon' cannot be read"),
        ("seed: !!int many", "'many' cannot be read"),
        ("is_on: !!bool maybe", "'maybe' cannot be read"),
        ("? [a, b]\n: 1\n", "unhashable key"),
        (DEEP, "nested more than 50 levels deep"),
        ("a: [" + "0," * 100_001 + "]", "more than 100000 values"),
        (LAUGHS, "expand to more than 100000 values"),
        ("a: &a [*a]", "expand to more than 100000 values"),
        (MERGES, "<< merges more than 100000 keys"),
        ("a: &a {k: 1}\nb: {<<: [" + "*a, " * 30 + "]}", "<< merges more than 20 mappings"),
        ("x" * 2**20 + ": 1", "is larger than 1 MiB"),
    ],
)  # fmt: skip
def test_ambiguous_or_unbounded_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)job\.yaml: .*{message}"):
        load_config(path, TrainConfig)
    if "\n" not in text and text.startswith(("seed: ", "start: ")):
        (tmp_path / "good.yaml").write_text(GOOD)
        with pytest.raises(ConfigError, match=rf"(?s)--set horizon: .*{message}"):
            load_config(tmp_path / "good.yaml", TrainConfig, ["horizon=" + text.partition(" ")[2]])


def test_yaml_merge_keys_and_aliases_are_supported(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("train: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nthird: {<<: *base}\nfourth: *base\n")
    read = read_yaml(path)
    assert read["other"] == {"a": 1, "b": 3}
    assert read["third"] == read["fourth"] == {"a": 1, "b": 2}


def test_fifo_and_folder_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path):
        with pytest.raises(ConfigError, match="is not a plain file"):
            load_config(path, TrainConfig)


def _configs() -> list[type[Config]]:
    """Return every configuration that a pipeline reads."""
    for module in ("inference.batch", "fleet.plan", "scheduling.config", "training.config"):
        importlib.import_module(f"forecaster.{module}")
    for pipeline in ("fetch", "promote", "retrain", "synthesize"):
        importlib.import_module(f"pipelines.{pipeline}")
    found, pending = [], [Config]
    while pending:
        pending += (subclasses := pending.pop().__subclasses__())
        found += subclasses
    return [config for config in found if config.__module__.startswith(("forecaster.", "pipelines."))]


def _unbounded(schema: Any, path: str) -> list[str]:
    """Return the paths of integers without a minimum or a maximum."""
    if isinstance(schema, list):
        return [found for number, item in enumerate(schema) for found in _unbounded(item, f"{path}.{number}")]
    if not isinstance(schema, dict):
        return []
    found = [inner for name, value in schema.items() for inner in _unbounded(value, f"{path}.{name}")]
    if schema.get("type") == "integer" and "const" not in schema:
        bounds = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
        found += [path] if any(not bound & schema.keys() for bound in bounds) else []
    return found


def test_every_integer_setting_has_a_minimum_and_a_maximum() -> None:
    schemas = {config.__name__: config.model_json_schema() for config in _configs()}
    assert {"TrainConfig", "FetchConfig", "BacktestConfig", "ScheduleConfig", "FleetConfig"} <= set(schemas)
    assert [path for name, schema in schemas.items() for path in _unbounded(schema, name)] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.seed=-1", "data.seed: "),
        ("data.length=10000000000000", "data.length: "),
        ("model.widths=[100000000]", "model.widths.0: "),
        ("fit.epochs=1000000000000", "fit.epochs: "),
        ("fit.batch_size=9223372036854775807", "fit.batch_size: "),
        ("input_size=1000000000000", "input_size: "),
        ("horizon=1000000000000", "horizon: "),
        ("data.freq=99999999999999999999h", "is not a frequency"),
        ("name=" + "x" * 10_000, "…"),
    ],
)
def test_too_large_values_are_refused(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, TrainConfig, [override])
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_series": 100_000, "length": 100_000}, "exceed 100000000 rows"),
        ({"start": "0001-01-01"}, "is before 1677"),
        ({"start": "1677-09-01", "freq": "MS"}, "is before 1677"),
        ({"freq": "900000D"}, "end after 2262"),
    ],
)
@pytest.mark.parametrize("source", [SineSource, RandomWalkSource])
def test_too_large_or_out_of_range_series_are_refused(source: type[Any], change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source.model_validate(change).load()
