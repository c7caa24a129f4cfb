"""What a fleet is to do, as one order for each symbol; an order is JSON, so that it can go to any machine."""

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
_PLACE = "{symbol}"
_NAMED = 5


class FleetConfig(Config):
    """How one recipe is carried out for many symbols.

    Args:
        do: `retrain` trains each symbol's own model and promotes or keeps it, as `pipelines.retrain` does, without
            fetching; `backtest` tries the recipe on each symbol.
        symbols: of the bar store; those of `train.data` when null.
        name: what each one's registered model is called; `{symbol}` stands for the symbol.
        on: where the workers are: `processes` of this machine, or `ray`.
        workers: how many symbols are worked on at once; null: one on each core.
        symbols_per_worker: after which a worker is replaced: TensorFlow keeps some megabytes of each network.
        ray_address: of a running Ray cluster, such as `10.0.0.1:6379`; null starts one on loopback for this run.
        tracked: whether each backtest is an MLflow run too.
        folder: finished backtests, tables and workers' logs; in a cluster every machine must see it.
        out: the table, `.parquet` or `.csv`; null: `report.parquet` in the fleet's own folder.
    """

    do: Task = "retrain"
    symbols: tuple[str, ...] | None = Field(None, min_length=1)
    name: str = _PLACE
    on: Literal["processes", "ray"] = "processes"
    workers: int | None = Field(None, ge=1, le=1024)
    symbols_per_worker: int = Field(50, ge=1, le=1_000_000)
    ray_address: str | None = Field(None, pattern=r"^[^:/\s]+:\d{1,5}$")
    tracked: bool = False
    folder: Path = Path("mlruns/fleet")
    out: Path | None = None

    @field_validator("name")
    @classmethod
    def _tells_symbols_apart(cls, name: str) -> str:
        if _PLACE not in name:
            raise ValueError(f"must hold {_PLACE}, such as stock-{_PLACE}")
        return name

    @field_validator("symbols")
    @classmethod
    def _are_told_apart(cls, symbols: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({one for one in symbols or () if (symbols or ()).count(one) > 1})
        if twice:
            raise ValueError(f"{twice[:_NAMED]} are named twice")
        return symbols

    @field_validator("out")
    @classmethod
    def _is_a_table(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix not in (".parquet", ".csv"):
            raise ValueError("must end with .parquet or .csv")
        return out

    @model_validator(mode="after")
    def _has_an_address_for_ray_alone(self) -> "FleetConfig":
        if self.ray_address and self.on != "ray":
            raise ValueError("ray_address: is for on: ray; set that, or remove it")
        return self


class Order(Config):
    """One symbol's work, whole: whoever has it needs nothing else.

    Args:
        symbol: whose.
        do: what.
        train: its own recipe: its model's name, and no other symbol.
        trial: at which cutoffs it is tried.
        gate: how strict the gate is.
        tracked: whether a backtest is an MLflow run too.
        folder: the fleet's own, for what is finished.
        home: the folder that relative paths are meant from.
    """

    symbol: str
    do: Task
    train: TrainConfig
    trial: BacktestConfig
    gate: GateConfig
    tracked: bool
    folder: Path
    home: Path


def plan(config: FleetConfig, train: TrainConfig, trial: BacktestConfig, gate: GateConfig) -> list[Order]:
    """Return an order for each symbol, in the order of the configuration.

    Raises:
        ConfigError: the recipe's data have no symbols, or a symbol makes no name that a model may have.
    """
    if "symbols" not in type(train.data).model_fields:
        raise ConfigError(
            f"train.data.source: {train.data.source} has no symbols; a fleet is of the bar store's (store)"
        )
    symbols: tuple[str, ...] = config.symbols or getattr(train.data, "symbols")  # noqa: B009
    _check_names(config.name, symbols)
    folder = config.folder / fleet_key(config, train, trial, gate)
    recipes = (
        train.model_copy(
            update={
                "name": config.name.replace(_PLACE, symbol),
                "data": train.data.model_copy(update={"symbols": (symbol,)}),
            }
        )
        for symbol in symbols
    )
    return [
        Order(
            symbol=symbol, do=config.do, train=recipe, trial=trial, gate=gate, tracked=config.tracked, folder=folder,
            home=Path.cwd(),
        )
        for symbol, recipe in zip(symbols, recipes, strict=True)
    ]  # fmt: skip


def fleet_key(config: FleetConfig, train: TrainConfig, trial: BacktestConfig, gate: GateConfig) -> str:
    """Return what tells a fleet from others: the same whichever symbols it has, and wherever it works."""
    recipe = train.model_dump(mode="json", exclude={"name": True, "tracking": True, "data": {"symbols"}})
    decides = [config.do, config.name, config.tracked, recipe, trial.model_dump(mode="json")]
    if config.do == "retrain":
        decides.append(gate.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _check_names(name: str, symbols: tuple[str, ...]) -> None:
    pattern = next(one.pattern for one in TrainConfig.model_fields["name"].metadata if hasattr(one, "pattern"))
    wrong = [symbol for symbol in symbols if not re.search(pattern, name.replace(_PLACE, symbol))]
    if wrong:
        raise ConfigError(
            f"fleet.name: '{name}' makes no name that a model may have ({pattern}) of {wrong[:_NAMED]}"
            f"{' and others' if len(wrong) > _NAMED else ''}; take them out of fleet.symbols and retrain each by "
            "itself under a name of your own"
        )


@dataclass(frozen=True)
class Ended:
    """How an order ended.

    Args:
        number: its place among the orders.
        answer: JSON, as `work.carry_out` has it; None where the worker was lost.
        reason: why there is no answer.
    """

    number: int
    answer: str | None
    reason: str = ""
