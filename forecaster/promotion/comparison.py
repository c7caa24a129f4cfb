"""Compare a challenger with the champion: on the rows since the champion's training, if there are enough of them."""

from pathlib import Path

import numpy as np

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig, intervals_at
from forecaster.backtesting.origins import cutoffs_of, roll
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.domain.errors import RegistryError
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.domain.series import Series
from forecaster.evaluation.probabilistic import coverage
from forecaster.evaluation.significance import MIN_BLOCKS, compare_losses
from forecaster.promotion.contenders import Contender
from forecaster.promotion.gate import ChampionComparison, GateConfig
from forecaster.registry.bundle import Bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.warm_start import WarmStart


def compare(
    challenger: Contender,
    champion: Contender,
    run: BacktestRun,
    gate: GateConfig,
    backtest_config: BacktestConfig,
    tags: dict[str, str],
) -> ChampionComparison:
    """Compare the challenger's losses with the champion's.

    The champion's own weights forecast the rows since its `trained_until`. The challenger's recipe forecasts the same
    rows, refitted `gate.refits` times on the rows known then; if the challenger started from the champion's weights,
    so do these fits. If there are too few such rows and the recipes differ, both recipes are backtested with
    `backtest_config` and compared.

    Args:
        challenger: the version to judge; it passes `check_comparable`.
        champion: the served version.
        run: the backtest of the challenger's recipe with `backtest_config`.
        gate: the settings of the gate.
        backtest_config: the settings of the backtest.
        tags: tags for the runs.

    Raises:
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as `run_backtest` raises them.
    """
    # on the challenger's data, so that both forecast the same rows
    theirs = champion.config.model_copy(update={"data": challenger.config.data})
    is_same = _recipe(challenger.config) == _recipe(champion.config)
    until = np.datetime64(champion.bundle.manifest.trained_until)
    is_fresher = is_same and bool(np.datetime64(challenger.bundle.manifest.trained_until) > until)
    n_windows = min(
        backtest_config.n_windows, _windows_since(run.series, until, challenger.config, backtest_config.step_size)
    )
    if n_windows >= MIN_BLOCKS * overlap(challenger.config.horizon, backtest_config.step_size):
        since = backtest_config.model_copy(update={"n_windows": n_windows, "refit": -(-n_windows // gate.refits)})
        roles = tags | {"tried_as": CHALLENGER, "rows": f"since version {champion.version} was trained"}
        ours = run_backtest(challenger.config, since, roles, _warm_start(challenger, champion), replace_existing=True)
        served = backtest_bundle(champion.bundle, theirs, since)
        return _compare_backtests(champion, ours.result, served, backtest_config, True, is_fresher)
    if is_same:
        return ChampionComparison(champion.version, None, n_windows, True, is_fresher, {})
    roles = tags | {"version": str(champion.version), "tried_as": CHAMPION}
    other = run_backtest(theirs, backtest_config, roles, replace_existing=True)
    return _compare_backtests(champion, run.result, other.result, backtest_config, False, is_fresher)


def backtest_bundle(bundle: Bundle, config: TrainConfig, backtest_config: BacktestConfig) -> Backtest:
    """Return the forecasts and intervals that a version's own weights would have served at the backtest's cutoffs.

    Raises:
        DataError: the data do not meet the recipe's requirements, or are too short.
    """
    series = prepare(config, config.load(), bundle.manifest.static_columns)
    origins = roll(series, config.input_size, config.horizon, backtest_config.n_windows, backtest_config.step_size)
    inputs, predictor = origins.windows.inputs(), ArrayPredictor(bundle)
    predicted = predictor.forecast(inputs)
    intervals = intervals_at(backtest_config, origins, predicted, [bundle.calibration] * len(origins.cutoffs))
    return Backtest(origins, origins.windows.targets(), predicted, {}, *intervals, (0,), (bundle.calibration,))


def _compare_backtests(
    champion: Contender,
    ours: Backtest,
    theirs: Backtest,
    backtest_config: BacktestConfig,
    is_as_served: bool,
    is_fresher: bool,
) -> ChampionComparison:
    """Compare two backtests on the windows that both have."""
    first, second = _in_common(ours, theirs)
    horizon = first.actual.shape[1]
    return ChampionComparison(
        champion.version,
        compare_losses(losses(first, MODEL), losses(second, MODEL), overlap(horizon, backtest_config.step_size)),
        len(first.actual),
        is_as_served,
        is_fresher,
        {
            level: (coverage(first.actual, *first.bands[level]), coverage(second.actual, *second.bands[level]))
            for level in first.bands.keys() & second.bands.keys()
        },
    )


def _in_common(ours: Backtest, theirs: Backtest) -> tuple[Backtest, Backtest]:
    """Return the windows with the same series and cutoff; new rows may arrive between two loads of the data."""
    cutoffs = np.union1d(ours.origins.cutoffs, theirs.origins.cutoffs)
    n_series = 1 + max(int(result.origins.windows.owners.max()) for result in (ours, theirs))
    our_keys, their_keys = (
        np.searchsorted(cutoffs, result.origins.cutoffs)[result.origins.numbers] * n_series
        + result.origins.windows.owners
        for result in (ours, theirs)
    )
    _, our_rows, their_rows = np.intersect1d(our_keys, their_keys, return_indices=True)
    return ours.choose(our_rows), theirs.choose(their_rows)


def _windows_since(series: Series, until: np.datetime64, config: TrainConfig, step_size: int) -> int:
    """Return the number of origins at `until` or later."""
    n_cutoffs = int((cutoffs_of(series, config.input_size, config.horizon) >= until).sum())
    return -(-n_cutoffs // step_size)


def _recipe(config: TrainConfig) -> str:
    """Return a text that is equal for two versions of the same recipe.

    It leaves out the data, which grow, and the settings of the intervals: they do not change the mean forecast, and the
    gate checks coverage separately.
    """
    return config.model_dump_json(exclude={"data", "tracking", "intervals", "folds"})


def _warm_start(challenger: Contender, champion: Contender) -> WarmStart | None:
    """Return a warm start from the champion's weights if the challenger used one; they have seen none of the rows."""
    if challenger.warm is None or challenger.warm[0] != champion.version:
        return None
    return WarmStart(Path(champion.bundle.folder) / KERAS_MODEL, champion.version, challenger.warm[1])


def check_comparable(challenger: Contender, champion: Contender) -> None:
    """Check that a comparison is possible, before anything is backtested for it.

    Raises:
        RegistryError: the horizons or frequencies differ, or the data have missing values and the champion takes none.
    """
    ours, theirs = ((version.config.horizon, version.config.freq) for version in (challenger, champion))
    if ours != theirs:
        raise RegistryError(
            f"model '{challenger.config.name}': horizon and freq are {ours}, but the champion's "
            f"(version {champion.version}) are {theirs}, so they cannot be compared; register it under another name, "
            "or promote it without the gate"
        )
    missing = challenger.bundle.manifest.training_data.missing
    if missing and not champion.bundle.manifest.is_masked:
        counts = ", ".join(f"{column}: {count}" for column, count in missing.items())
        raise RegistryError(
            f"model '{challenger.config.name}': the data have missing values ({counts}), which the champion "
            f"(version {champion.version}) does not take, so they cannot be compared; promote version "
            f"{challenger.version} without the gate"
        )
