"""The backtest: forecast at many past cutoffs, each time only with the rows known then, and compare with baselines.

A refit repeats the whole training with the rows up to its cutoff: transforms, fit, calibration, and the final refit if
the recipe has one. The forecasts of all origins between two refits are made at once.
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
from forecaster.domain.levels import LEVELS
from forecaster.domain.missing import carried
from forecaster.domain.series import Floats, Series
from forecaster.evaluation.adaptive import Bands, adapt
from forecaster.evaluation.baselines import BASELINES
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.ridge import fit_ridge
from forecaster.evaluation.statistical import STATISTICAL, forecast_histories
from forecaster.models.cells import CELLS
from forecaster.models.trained import TrainedNetwork
from forecaster.training import networks
from forecaster.training.config import TrainConfig, split
from forecaster.training.stages import fit_recipe, refit
from forecaster.training.warm_start import WarmStart

MODEL = "model"
RIDGE = "ridge"
_CHUNK = 4096
_MOST = 1_000_000


class BacktestConfig(Config):
    """The settings of a backtest.

    Args:
        n_windows: the number of forecast origins; the last lies one horizon before the end.
        step_size: rows between successive origins.
        refit: `never` after the first origin, at `each` origin, or at every n-th origin.
        season_length: rows of a season, for the seasonal naive baseline and the scales of MASE and RMSSE.
        baselines: the baselines to compare with.
        levels: the levels of the intervals, 0–100.
        cells: the cells to backtest; the recipe's own when empty.
    """

    n_windows: int = Field(100, ge=1, le=_MOST)
    step_size: int = Field(1, ge=1, le=_MOST)
    refit: Literal["never", "each"] | Annotated[int, Field(ge=1, le=_MOST)] = "never"
    season_length: int = Field(1, ge=1, le=_MOST)
    baselines: tuple[str, ...] = ("naive", "seasonal_naive", "drift", "window_mean", RIDGE)
    levels: tuple[Annotated[int, Field(gt=0, lt=100)], ...] = LEVELS
    cells: tuple[str, ...] = ()

    @field_validator("baselines")
    @classmethod
    def _check_baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = (*BASELINES, RIDGE, *STATISTICAL)
        if set(names) - set(known) or "naive" not in names:
            raise ValueError(f"must contain naive, and may contain {', '.join(known)}; got {', '.join(names)}")
        return names

    @field_validator("cells")
    @classmethod
    def _check_cells(cls, cells: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [cell for cell in cells if cell not in CELLS]
        if unknown:
            raise ValueError(f"{unknown} are unknown; choose from {', '.join(CELLS)}")
        return cells

    @field_validator("refit", mode="before")
    @classmethod
    def _check_refit(cls, refit: object) -> object:
        if isinstance(refit, int) and not 1 <= refit <= _MOST:
            raise ValueError(f"must be never, each, or a number of origins from 1 to {_MOST}")
        return refit

    @property
    def origins_per_refit(self) -> int | None:
        """Return the number of origins that one fit forecasts; None for all."""
        return {"never": None, "each": 1}.get(str(self.refit), self.refit if isinstance(self.refit, int) else None)


@dataclass(frozen=True)
class Backtest:
    """The results of a backtest; the rows of all arrays are the windows of its origins.

    Args:
        origins: the windows and their cutoffs.
        actual: the actuals, `(n, horizon)`.
        predicted: the recipe's forecasts of `n` windows.
        baselines: the baselines' mean forecasts by name, `(n, horizon)` each.
        static: the bounds of the recipe's static intervals by level, `(n, horizon)` each.
        adaptive: the bounds of the adaptive intervals by level, `(n, horizon)` each.
        is_adaptive: whether a version fitted then would serve the adaptive intervals, `(n,)`.
        refits: the position of the first cutoff of each refit.
        calibrations: the calibration of each refit.
    """

    origins: Origins
    actual: Floats
    predicted: Forecasts
    baselines: dict[str, Floats]
    static: Bands
    adaptive: Bands
    is_adaptive: NDArray[np.bool_]
    refits: tuple[int, ...]
    calibrations: tuple[Calibration, ...]

    @property
    def forecasts(self) -> dict[str, Floats]:
        """Return the mean forecasts by name, `(n, horizon)` each: the recipe's as `model`, and the baselines'."""
        return {MODEL: self.predicted.mean} | self.baselines

    @property
    def bands(self) -> Bands:
        """Return the bounds that a version would serve, static or adaptive."""
        adapts = self.is_adaptive[:, None]
        return {
            level: (np.where(adapts, self.adaptive[level][0], low), np.where(adapts, self.adaptive[level][1], high))
            for level, (low, high) in self.static.items()
        }

    def choose(self, rows: NDArray[np.int64]) -> "Backtest":
        """Return the results of some windows."""

        def chosen(bands: Bands) -> Bands:
            return {level: (low[rows], high[rows]) for level, (low, high) in bands.items()}

        return Backtest(
            Origins(self.origins.windows.choose(rows), self.origins.cutoffs, self.origins.numbers[rows]),
            self.actual[rows],
            self.predicted.take(rows),
            {name: mean[rows] for name, mean in self.baselines.items()},
            chosen(self.static),
            chosen(self.adaptive),
            self.is_adaptive[rows],
            self.refits,
            self.calibrations,
        )


@networks.reuse_networks(most=4)
def backtest(
    config: TrainConfig,
    backtest_config: BacktestConfig,
    series: Series,
    checkpoints: Path,
    warm: WarmStart | None = None,
) -> Backtest:
    """Backtest a recipe.

    Args:
        config: the recipe.
        backtest_config: the settings of the backtest.
        series: the prepared series.
        checkpoints: a folder for interrupted fits, used only by this backtest.
        warm: the weights that the forecasting networks start from; they must not have seen any forecast row.

    Raises:
        TooShortError: there are too few rows for the origins, or before the first origin.
    """
    origins = roll(series, config.input_size, config.horizon, backtest_config.n_windows, backtest_config.step_size)
    blocks = list(origins.blocks(backtest_config.origins_per_refit))
    forecasts: list[Forecasts] = []
    baselines: list[dict[str, Floats]] = []
    calibrations: list[Calibration] = []
    for number, (cutoffs, rows) in enumerate(blocks):
        known = known_at(series, origins.cutoffs[cutoffs.start], config.input_size + config.horizon)
        trained, calibration = fit_for_serving(config, known, checkpoints / f"{number}", warm)
        calibrations += [calibration] * len(cutoffs)
        windows = origins.windows.choose(rows)
        forecasts.append(trained.forecast(windows))
        baselines.append(_baselines(backtest_config, known, windows, series.bounds, config.n_padded))
    predicted = Forecasts.join(forecasts)
    return Backtest(
        origins,
        origins.windows.targets(),
        predicted,
        {name: np.concatenate([block[name] for block in baselines]) for name in baselines[0]},
        *intervals_at(backtest_config, origins, predicted, calibrations),
        tuple(cutoffs.start for cutoffs, _ in blocks),
        tuple(calibrations[cutoffs.start] for cutoffs, _ in blocks),
    )


def fit_for_serving(
    config: TrainConfig, known: Series, checkpoints: Path, warm: WarmStart | None = None
) -> tuple[TrainedNetwork, Calibration]:
    """Return the network and the calibration that a training on `known` would serve."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    parts = split(config, known, PARTS[:3])
    trained, history, calibration = fit_recipe(config, parts, checkpoints)
    if config.refit:
        seen = cut_windows(known, config.input_size, config.horizon, config.step_size)
        epochs = warm.epochs if warm else history.best_epoch + 1
        trained = refit(config, seen, epochs, checkpoints, weights=warm.model if warm else None)
    return trained, calibration


def _baselines(
    backtest_config: BacktestConfig, known: Series, windows: Windows, bounds: NDArray[np.int64], n_padded: int
) -> dict[str, Floats]:
    past, season = carried(windows.inputs().target), backtest_config.season_length
    forecasts: dict[str, Floats] = {}
    for name in backtest_config.baselines:
        if name == RIDGE:
            forecasts[name] = _ridge(known, windows)
        elif name in STATISTICAL:
            # fitted on the whole series up to the cutoff, not only on the window
            ends = windows.first + windows.input_size
            begins = bounds[windows.owners] + n_padded
            rows = map(slice, begins, ends)
            histories = [carried(windows.values[None, within, 0])[0] for within in rows]
            forecasts[name] = forecast_histories(name, histories, windows.horizon, season)
        else:
            forecasts[name] = BASELINES[name](past, windows.horizon, season)
    return forecasts


def _ridge(known: Series, windows: Windows) -> Floats:
    past = cut_windows(known, windows.input_size, windows.horizon)

    def pairs() -> Iterator[tuple[Floats, Floats]]:
        for index in past.chunks(_CHUNK):
            yield carried(past.inputs(index).target), carried(past.targets(index))

    return fit_ridge(pairs()).predict(carried(windows.inputs().target))


def intervals_at(
    backtest_config: BacktestConfig, origins: Origins, predicted: Forecasts, calibrations: list[Calibration]
) -> tuple[Bands, Bands, NDArray[np.bool_]]:
    """Return the static bounds, the adaptive bounds, and a mask of the windows for which the adaptive ones are served.

    Levels that are not calibrated everywhere are left out.

    Args:
        backtest_config: the settings of the backtest.
        origins: its origins.
        predicted: the forecasts of its windows.
        calibrations: the calibration at each cutoff.
    """
    past, actual, numbers = origins.windows.inputs().target, origins.windows.targets(), origins.numbers
    levels = [
        level for level in backtest_config.levels if all(calibration.supports(level) for calibration in calibrations)
    ]
    mean = predicted.mean
    units, is_adaptive = np.empty((len(mean), 1)), np.empty(len(mean), dtype=bool)
    static = {level: (np.empty_like(mean), np.empty_like(mean)) for level in levels}
    for calibration, cutoffs in _group(calibrations):
        rows = slice(*np.searchsorted(numbers, [cutoffs.start, cutoffs.stop]))
        units[rows], is_adaptive[rows] = calibration.units(past[rows]), calibration.is_adaptive
        for level, (low, high) in calibration.bands(past[rows], levels, predicted.take(rows)).items():
            static[level][0][rows], static[level][1][rows] = low, high
    owners = origins.windows.owners
    adaptive = adapt(calibrations, actual, predicted, units, levels, numbers, owners, backtest_config.step_size).bands
    return static, adaptive, is_adaptive


def _group(calibrations: list[Calibration]) -> Iterator[tuple[Calibration, range]]:
    """Yield each calibration with the range of successive cutoffs that use it."""
    begin = 0
    for number in range(1, len(calibrations) + 1):
        if number == len(calibrations) or calibrations[number] is not calibrations[begin]:
            yield calibrations[begin], range(begin, number)
            begin = number
