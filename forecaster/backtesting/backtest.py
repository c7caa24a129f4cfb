"""The backtest: a recipe at many cutoffs, each time knowing what was known then, beside the baselines.

At a refit all is done anew with the rows up to its cutoff: transforms, fit, calibration, and where the recipe says so
the refit on every row. Between refits the forecasts of all origins are made at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from forecaster.backtesting.origins import Origins, known_at, roll
from forecaster.data.windows import PARTS, Windows, cut_windows
from forecaster.domain.config import Config
from forecaster.domain.series import Floats, Series
from forecaster.evaluation.adaptive import Bands, adaptive_bands
from forecaster.evaluation.baselines import BASELINES
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.ridge import fit_ridge
from forecaster.evaluation.statistical import STATISTICAL, forecast_histories
from forecaster.models.cells import CELLS
from forecaster.training.config import TrainConfig, split
from forecaster.training.export import Trained
from forecaster.training.job import WarmStart
from forecaster.training.stages import fit_recipe, refit

MODEL = "model"
RIDGE = "ridge"
_CHUNK = 4096
_MOST = 1_000_000


class BacktestConfig(Config):
    """Where a recipe is tried.

    Args:
        n_windows: origins, the last a horizon before the end.
        step_size: rows from one origin to the next.
        refit: `never` after the first origin, at `each`, or at every so many origins.
        season_length: rows of a season, for the seasonal naive baseline and the scales of MASE and RMSSE.
        baselines: what the recipe is compared with.
        levels: of the intervals, 0–100.
        cells: which are tried, one after the other; the recipe's own when empty.
    """

    n_windows: int = Field(100, ge=1, le=_MOST)
    step_size: int = Field(1, ge=1, le=_MOST)
    refit: Literal["never", "each"] | Annotated[int, Field(ge=1, le=_MOST)] = "never"
    season_length: int = Field(1, ge=1, le=_MOST)
    baselines: tuple[str, ...] = ("naive", "seasonal_naive", "drift", "window_mean", RIDGE)
    levels: tuple[Annotated[int, Field(gt=0, lt=100)], ...] = (80, 95)
    cells: tuple[str, ...] = ()

    @field_validator("baselines")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = (*BASELINES, RIDGE, *STATISTICAL)
        if set(names) - set(known) or "naive" not in names:
            raise ValueError(f"must hold naive, and may hold {', '.join(known)}; got {', '.join(names)}")
        return names

    @field_validator("cells")
    @classmethod
    def _cells_are_known(cls, cells: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [cell for cell in cells if cell not in CELLS]
        if unknown:
            raise ValueError(f"{unknown} are unknown; choose from {', '.join(CELLS)}")
        return cells

    @field_validator("refit", mode="before")
    @classmethod
    def _is_in_range(cls, refit: object) -> object:
        if isinstance(refit, int) and not 1 <= refit <= _MOST:
            raise ValueError(f"must be never, each, or a number of origins from 1 to {_MOST}")
        return refit

    @property
    def origins_per_refit(self) -> int | None:
        """Return how many origins one fit serves, None for all."""
        return {"never": None, "each": 1}.get(str(self.refit), self.refit if isinstance(self.refit, int) else None)


@dataclass(frozen=True)
class Backtest:
    """What came of it; every array's rows are the origins' windows.

    Args:
        origins: the windows and their cutoffs.
        actual: `(n, horizon)`.
        forecasts: means by name, `(n, horizon)` each: `model` is the recipe, the others are the baselines.
        static: bounds of the recipe's intervals by level, `(n, horizon)` each.
        adaptive: the same, adapted to what was covered.
        is_adaptive: whether these are the ones that a version fitted then would serve, `(n,)`.
        refits: the position of each refit's first cutoff.
        calibrations: of each refit, which the bands are from.
    """

    origins: Origins
    actual: Floats
    forecasts: dict[str, Floats]
    static: Bands
    adaptive: Bands
    is_adaptive: NDArray[np.bool_]
    refits: tuple[int, ...]
    calibrations: tuple[Calibration, ...]

    @property
    def bands(self) -> Bands:
        """Return the bounds that are served."""
        follows = self.is_adaptive[:, None]
        return {
            level: (np.where(follows, self.adaptive[level][0], low), np.where(follows, self.adaptive[level][1], high))
            for level, (low, high) in self.static.items()
        }

    def choose(self, rows: NDArray[np.int64]) -> "Backtest":
        """Return what came of some windows."""

        def chosen(bands: Bands) -> Bands:
            return {level: (low[rows], high[rows]) for level, (low, high) in bands.items()}

        return Backtest(
            Origins(self.origins.windows.choose(rows), self.origins.cutoffs, self.origins.numbers[rows]),
            self.actual[rows],
            {name: mean[rows] for name, mean in self.forecasts.items()},
            chosen(self.static),
            chosen(self.adaptive),
            self.is_adaptive[rows],
            self.refits,
            self.calibrations,
        )


def backtest(
    config: TrainConfig, trial: BacktestConfig, series: Series, checkpoints: Path, warm: WarmStart | None = None
) -> Backtest:
    """Try a recipe.

    Args:
        config: the recipe.
        trial: where.
        series: checked against the recipe.
        checkpoints: a folder of this trial alone, for interrupted fits.
        warm: what the forecasting networks start from; it must have seen no row that is forecast.

    Raises:
        TooShortError: there are too few rows for the origins, or before the first of them.
    """
    origins = roll(series, config.input_size, config.horizon, trial.n_windows, trial.step_size)
    blocks = list(origins.blocks(trial.origins_per_refit))
    forecasts: list[dict[str, Floats]] = []
    calibrations: list[Calibration] = []
    for number, (cutoffs, rows) in enumerate(blocks):
        known = known_at(series, origins.cutoffs[cutoffs.start], config.input_size + config.horizon)
        trained, calibration = fit_until_now(config, known, checkpoints / f"{number}", warm)
        calibrations += [calibration] * len(cutoffs)
        windows = origins.windows.choose(rows)
        forecasts.append({MODEL: trained.forecast(windows)} | _baselines(trial, known, windows, series.bounds))
    joined = {name: np.concatenate([block[name] for block in forecasts]) for name in forecasts[0]}
    return Backtest(
        origins,
        origins.windows.targets(),
        joined,
        *intervals_at(trial, origins, joined[MODEL], calibrations),
        tuple(cutoffs.start for cutoffs, _ in blocks),
        tuple(calibrations[cutoffs.start] for cutoffs, _ in blocks),
    )


def fit_until_now(
    config: TrainConfig, known: Series, checkpoints: Path, warm: WarmStart | None = None
) -> tuple[Trained, Calibration]:
    """Return what a training on `known` would serve: its network, refitted if it says so, and the calibration."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    parts = split(config, known, PARTS[:3])
    trained, history, calibration = fit_recipe(config, parts, checkpoints)
    if config.refit:
        seen = cut_windows(known, config.input_size, config.horizon, config.step_size)
        epochs = warm.epochs if warm else history.best_epoch + 1
        trained = refit(config, seen, epochs, checkpoints, weights=warm.model if warm else None)
    return trained, calibration


def _baselines(trial: BacktestConfig, known: Series, windows: Windows, bounds: NDArray[np.int64]) -> dict[str, Floats]:
    past, season = windows.inputs().target, trial.season_length
    forecasts: dict[str, Floats] = {}
    for name in trial.baselines:
        if name == RIDGE:
            forecasts[name] = _ridge(known, windows)
        elif name in STATISTICAL:
            # of the whole series up to the cutoff, not of a window's inputs alone
            ends = windows.first + windows.input_size
            begins = bounds[windows.owners]
            histories = [windows.values[begin:end, 0] for begin, end in zip(begins, ends, strict=True)]
            forecasts[name] = forecast_histories(name, histories, windows.horizon, season)
        else:
            forecasts[name] = BASELINES[name](past, windows.horizon, season)
    return forecasts


def _ridge(known: Series, windows: Windows) -> Floats:
    past = cut_windows(known, windows.input_size, windows.horizon)

    def pairs() -> Iterator[tuple[Floats, Floats]]:
        return ((past.inputs(index).target, past.targets(index)) for index in past.chunks(_CHUNK))

    return fit_ridge(pairs()).predict(windows.inputs().target)


def intervals_at(
    trial: BacktestConfig, origins: Origins, mean: Floats, calibrations: list[Calibration]
) -> tuple[Bands, Bands, NDArray[np.bool_]]:
    """Return static and adaptive bounds, and which are served; `calibrations` are the cutoffs'.

    Levels are left out that a calibration does not know.
    """
    past, actual, numbers = origins.windows.inputs().target, origins.windows.targets(), origins.numbers
    levels = [level for level in trial.levels if all(one.supports(level) for one in calibrations)]
    units, is_adaptive = np.empty((len(mean), 1)), np.empty(len(mean), dtype=bool)
    static = {level: (mean.copy(), mean.copy()) for level in levels}
    for calibration, cutoffs in _runs(calibrations):
        rows = slice(*np.searchsorted(numbers, [cutoffs.start, cutoffs.stop]))
        units[rows], is_adaptive[rows] = calibration.units(past[rows]), calibration.is_adaptive
        for level, (below, above) in calibration.bands(past[rows], levels).items():
            static[level][0][rows] += below
            static[level][1][rows] += above
    owners = origins.windows.owners
    adaptive = adaptive_bands(calibrations, actual, mean, units, levels, numbers, owners, trial.step_size)
    return static, adaptive, is_adaptive


def _runs(calibrations: list[Calibration]) -> Iterator[tuple[Calibration, range]]:
    """Yield each calibration with the successive cutoffs that it serves."""
    begin = 0
    for number in range(1, len(calibrations) + 1):
        if number == len(calibrations) or calibrations[number] is not calibrations[begin]:
            yield calibrations[begin], range(begin, number)
            begin = number
