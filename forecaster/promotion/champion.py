"""A challenger beside the champion: as it is served, on the rows since its training, where there are enough of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig, intervals_at
from forecaster.backtesting.origins import cutoffs_of, roll
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import Tried, try_recipe
from forecaster.domain.errors import RegistryError
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.domain.series import Series
from forecaster.evaluation.probabilistic import coverage
from forecaster.evaluation.significance import MIN_BLOCKS, compare_losses
from forecaster.promotion.gate import BesideChampion, GateConfig
from forecaster.registry.bundle import Bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION
from forecaster.registry.predictor import Predictor
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.job import WarmStart


@dataclass(frozen=True)
class Rival:
    """A version in a contest: its number, the recipe that made it, its bundle, and how long it was fitted on if warm.

    Args:
        version: its number.
        config: its recipe.
        bundle: verified.
        warm: the version whose weights it started from and for how many epochs; None: random weights.
    """

    version: int
    config: TrainConfig
    bundle: Bundle
    warm: tuple[int, int] | None = None


def compare(
    challenger: Rival, champion: Rival, tried: Tried, gate: GateConfig, trial: BacktestConfig, tags: dict[str, str]
) -> BesideChampion:
    """Return the challenger's losses beside the champion's.

    The champion's weights forecast the rows since its `trained_until`. The challenger's recipe forecasts the same rows,
    fitted `gate.refits` times on what was known then, from the champion's weights if the challenger was. Where these
    rows are too few and the recipes differ, both recipes are compared at the cutoffs of `trial`.

    Args:
        challenger: the version that is judged.
        champion: the version that is served.
        tried: the challenger's recipe at the cutoffs of `trial`.
        gate: how strict the gate is.
        trial: at which cutoffs.
        tags: of the runs.

    Raises:
        RegistryError: their horizons or frequencies differ.
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as `try_recipe` says.
    """
    _check_comparable(challenger, champion)
    # on the challenger's data, so that both are asked the same
    theirs = champion.config.model_copy(update={"data": challenger.config.data})
    is_same = _recipe(challenger.config) == _recipe(champion.config)
    until = np.datetime64(champion.bundle.manifest.trained_until)
    is_fresher = is_same and bool(np.datetime64(challenger.bundle.manifest.trained_until) > until)
    n_windows = min(trial.n_windows, _windows_since(tried.series, until, challenger.config, trial.step_size))
    if n_windows >= MIN_BLOCKS * overlap(challenger.config.horizon, trial.step_size):
        since = trial.model_copy(update={"n_windows": n_windows, "refit": -(-n_windows // gate.refits)})
        roles = tags | {"tried_as": CHALLENGER, "rows": f"since version {champion.version} was trained"}
        ours = try_recipe(challenger.config, since, roles, _warm_start(challenger, champion), is_anew=True)
        return _beside(champion, ours.result, serve(champion.bundle, theirs, since), trial, True, is_fresher)
    if is_same:
        return BesideChampion(champion.version, None, n_windows, True, is_fresher, {})
    rival = try_recipe(theirs, trial, tags | {"version": str(champion.version), "tried_as": CHAMPION}, is_anew=True)
    return _beside(champion, tried.result, rival.result, trial, False, is_fresher)


def serve(bundle: Bundle, config: TrainConfig, trial: BacktestConfig) -> Backtest:
    """Return what a version's own weights forecast at the cutoffs of `trial`, with its intervals as it serves them.

    Raises:
        DataError: the data are not fit for the version's recipe, or too short.
    """
    series = prepare(config, config.data.load(config.exogenous))
    origins = roll(series, config.input_size, config.horizon, trial.n_windows, trial.step_size)
    inputs, predictor = origins.windows.inputs(), Predictor(bundle)
    mean = predictor.predict_arrays(inputs.values, known=inputs.known)
    intervals = intervals_at(trial, origins, mean, [bundle.calibration] * len(origins.cutoffs))
    return Backtest(origins, origins.windows.targets(), {MODEL: mean}, *intervals, (0,), (bundle.calibration,))


def _beside(
    champion: Rival, ours: Backtest, theirs: Backtest, trial: BacktestConfig, is_as_served: bool, is_fresher: bool
) -> BesideChampion:
    """Compare two backtests on the windows that both have."""
    first, second = _in_common(ours, theirs)
    horizon = first.actual.shape[1]
    return BesideChampion(
        champion.version,
        compare_losses(losses(first, MODEL), losses(second, MODEL), overlap(horizon, trial.step_size)),
        len(first.actual),
        is_as_served,
        is_fresher,
        {
            level: (coverage(first.actual, *first.bands[level]), coverage(second.actual, *second.bands[level]))
            for level in first.bands.keys() & second.bands.keys()
        },
    )


def _in_common(ours: Backtest, theirs: Backtest) -> tuple[Backtest, Backtest]:
    # by time, for a row may have come between the two loads of the data
    cutoffs = np.union1d(ours.origins.cutoffs, theirs.origins.cutoffs)
    n_series = 1 + max(int(one.origins.windows.owners.max()) for one in (ours, theirs))
    keys, others = (
        np.searchsorted(cutoffs, one.origins.cutoffs)[one.origins.numbers] * n_series + one.origins.windows.owners
        for one in (ours, theirs)
    )
    _, mine, other = np.intersect1d(keys, others, return_indices=True)
    return ours.choose(mine), theirs.choose(other)


def _windows_since(series: Series, until: np.datetime64, config: TrainConfig, step_size: int) -> int:
    """Return how many origins lie at `until` or later."""
    n_cutoffs = int((cutoffs_of(series, config.input_size, config.horizon) >= until).sum())
    return -(-n_cutoffs // step_size)


def _recipe(config: TrainConfig) -> str:
    """Return what makes two versions of one recipe.

    The data are more each time. What only sizes intervals changes no forecast, and the gate judges coverage by itself.
    """
    return config.model_dump_json(exclude={"data", "tracking", "intervals", "folds"})


def _warm_start(challenger: Rival, champion: Rival) -> WarmStart | None:
    """Return the champion's weights, which have seen none of the rows, where the challenger started from them too."""
    if challenger.warm is None or challenger.warm[0] != champion.version:
        return None
    return WarmStart(Path(champion.bundle.folder) / KERAS_MODEL, champion.version, challenger.warm[1])


def _check_comparable(challenger: Rival, champion: Rival) -> None:
    ours, theirs = ((one.config.horizon, one.config.freq) for one in (challenger, champion))
    if ours != theirs:
        raise RegistryError(
            f"model '{challenger.config.name}': horizon and freq are {ours}, the champion's "
            f"(version {champion.version}) {theirs}, and cannot be compared; register it under another name, or "
            "promote it without the gate"
        )
