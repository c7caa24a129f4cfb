"""Plan a fleet: one order for each symbol. An order is sent to its worker as JSON."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.promotion.gate import GateConfig
from forecaster.training.config import TrainConfig

Task = Literal["retrain", "backtest"]
_PLACEHOLDER = "{symbol}"
_MAX_NAMES_SHOWN = 5


class FleetConfig(Config):
    """How to train or backtest one recipe for many symbols.

    Args:
        do: `retrain` trains a model for each symbol and judges it, like `pipelines.retrain` without the fetch;
            `backtest` backtests the recipe on each symbol.
        symbols: symbols of the bar store; null takes those of `train.data`.
        name: the name of each symbol's registered model; `{symbol}` is replaced by the symbol.
        on: where the workers run: `processes` on this machine, or `ray`.
        workers: the number of workers; null starts one per core.
        symbols_per_worker: after this many symbols a worker is replaced, because TensorFlow leaks memory.
        ray_address: the address of a Ray cluster, such as `10.0.0.1:6379`; null starts a local Ray.
        tracked: whether to track each backtest as an MLflow run.
        folder: the folder for finished backtests, tables and workers' logs; all machines of a cluster must share it.
        out: the file for the table, `.parquet` or `.csv`; null means `report.parquet` in the fleet's own folder.
    """

    do: Task = "retrain"
    symbols: tuple[str, ...] | None = Field(None, min_length=1)
    name: str = _PLACEHOLDER
    on: Literal["processes", "ray"] = "processes"
    workers: int | None = Field(None, ge=1, le=1024)
    symbols_per_worker: int = Field(50, ge=1, le=1_000_000)
    ray_address: str | None = Field(None, pattern=r"^[^:/\s]+:\d{1,5}$")
    tracked: bool = False
    folder: Path = Path("mlruns/fleet")
    out: Path | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if _PLACEHOLDER not in name:
            raise ValueError(f"must contain {_PLACEHOLDER}, such as stock-{_PLACEHOLDER}")
        return name

    @field_validator("symbols")
    @classmethod
    def _check_symbols(cls, symbols: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = sorted({symbol for symbol in symbols or () if (symbols or ()).count(symbol) > 1})
        if repeated:
            raise ValueError(f"{repeated[:_MAX_NAMES_SHOWN]} are listed twice; remove the repetitions")
        return symbols

    @field_validator("out")
    @classmethod
    def _check_out(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix not in (".parquet", ".csv"):
            raise ValueError("must end with .parquet or .csv")
        return out

    @model_validator(mode="after")
    def _check_ray_address(self) -> "FleetConfig":
        if self.ray_address and self.on != "ray":
            raise ValueError("ray_address: needs on: ray; set that, or remove ray_address")
        return self


class Order(Config):
    """The complete work for one symbol.

    Args:
        symbol: the symbol.
        do: the task.
        train: the symbol's recipe, with its own model name and its own data.
        backtest_config: the settings of the backtest.
        gate: the settings of the gate.
        tracked: whether to track a backtest as an MLflow run.
        folder: the fleet's folder for finished backtests.
        home: the folder that relative paths start from.
    """

    symbol: str
    do: Task
    train: TrainConfig
    backtest_config: BacktestConfig
    gate: GateConfig
    tracked: bool
    folder: Path
    home: Path


def plan(config: FleetConfig, train: TrainConfig, backtest_config: BacktestConfig, gate: GateConfig) -> list[Order]:
    """Return one order per symbol, in the order of the configuration.

    Raises:
        ConfigError: the recipe's data have no symbols, or a model name with a symbol is not valid.
    """
    if "symbols" not in type(train.data).model_fields:
        raise ConfigError(f"train.data.source: {train.data.source} has no symbols; a fleet needs the source store")
    symbols: tuple[str, ...] = config.symbols or getattr(train.data, "symbols")  # noqa: B009
    _check_names(config.name, symbols)
    folder = config.folder / fleet_key(config, train, backtest_config, gate)
    recipes = (
        train.model_copy(
            update={
                "name": config.name.replace(_PLACEHOLDER, symbol),
                "data": train.data.model_copy(update={"symbols": (symbol,)}),
            }
        )
        for symbol in symbols
    )
    return [
        Order(
            symbol=symbol,
            do=config.do,
            train=recipe,
            backtest_config=backtest_config,
            gate=gate,
            tracked=config.tracked,
            folder=folder,
            home=Path.cwd(),
        )
        for symbol, recipe in zip(symbols, recipes, strict=True)
    ]


def fleet_key(config: FleetConfig, train: TrainConfig, backtest_config: BacktestConfig, gate: GateConfig) -> str:
    """Return a digest of everything that determines a fleet's results, except its symbols and where it runs."""
    recipe = train.model_dump(mode="json", exclude={"name": True, "tracking": True, "data": {"symbols"}})
    inputs = [config.do, config.name, config.tracked, recipe, backtest_config.model_dump(mode="json")]
    if config.do == "retrain":
        inputs.append(gate.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _check_names(name: str, symbols: tuple[str, ...]) -> None:
    metadata = TrainConfig.model_fields["name"].metadata
    pattern = next(constraint.pattern for constraint in metadata if hasattr(constraint, "pattern"))
    wrong = [symbol for symbol in symbols if not re.search(pattern, name.replace(_PLACEHOLDER, symbol))]
    if wrong:
        raise ConfigError(
            f"fleet.name: '{name}' gives no valid model name ({pattern}) for {wrong[:_MAX_NAMES_SHOWN]}"
            f"{' and others' if len(wrong) > _MAX_NAMES_SHOWN else ''}; remove them from fleet.symbols and "
            "retrain each of them separately under another name"
        )


@dataclass(frozen=True)
class OrderResult:
    """The result of an order.

    Args:
        number: the order's position among all orders.
        answer: the JSON that `work.execute_order` returned; None if the worker was lost.
        reason: why there is no answer.
    """

    number: int
    answer: str | None
    reason: str = ""
