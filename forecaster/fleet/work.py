"""Execute one order of a fleet, and return its outcome even if it fails."""

import json
import logging
import os
import random
import shutil
import time
from typing import Any

from filelock import FileLock

from forecaster.backtesting.backtest import backtest
from forecaster.backtesting.report import score
from forecaster.backtesting.tracking import run_backtest
from forecaster.data.tails import file_name
from forecaster.domain.errors import ForecasterError
from forecaster.domain.files import write_atomically
from forecaster.domain.levels import LEVELS
from forecaster.fleet.plan import Order
from forecaster.promotion.promote import judge_and_promote
from forecaster.registry.store import Store
from forecaster.training import networks, past_runs
from forecaster.training.dataset import load_dataset
from forecaster.training.job import train
from forecaster.training.lock import training_lock

FAILED, TRIED = "failed", "tried"
_LOCKED_MESSAGE, _MAX_ATTEMPTS, _MAX_DELAY_SECONDS = "database is locked", 6, 10.0
_log = logging.getLogger(__name__)


def execute_order(text: str) -> str:
    """Execute an order and return its answer, both as JSON; an error becomes the answer's `reason`.

    The answer has `symbol`, `outcome` (`promoted`, `shadow`, `kept`, `tried` or `failed`), `version`, `relative_mae`,
    `coverage` (of the narrowest intervals), `seconds` and `reason`. Unknown values are null.
    """
    order = Order.model_validate_json(text)
    begin = time.perf_counter()
    answer: dict[str, Any] = {"symbol": order.symbol} | dict.fromkeys(("version", "relative_mae", "coverage"))
    try:
        os.chdir(order.home)
        answer |= _execute_with_retries(order)
    except ForecasterError as error:
        answer |= {"outcome": FAILED, "reason": str(error)}
    # an unexpected error with one symbol must not stop the worker; the log has the traceback
    except Exception as error:
        _log.exception("symbol %s", order.symbol)
        answer |= {"outcome": FAILED, "reason": f"{type(error).__name__}: {error}"}
    # a worker builds hundreds of networks
    networks.release()
    return json.dumps({"seconds": round(time.perf_counter() - begin, 3), **answer})


def _execute_with_retries(order: Order) -> dict[str, Any]:
    """Execute an order, and retry it while SQLite is locked by others; a retry continues where the order stopped."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        try:
            return _WORK[order.do](order)
        except Exception as error:
            if _LOCKED_MESSAGE not in str(error) or attempt == _MAX_ATTEMPTS:
                raise
            _log.warning("symbol %s: %s; attempt %d of %d", order.symbol, _LOCKED_MESSAGE, attempt, _MAX_ATTEMPTS)
        # a random delay, so that not all workers retry at the same time
        time.sleep(random.uniform(0, min(2.0**attempt, _MAX_DELAY_SECONDS)))  # noqa: S311
    raise AssertionError("unreachable")


def _retrain(order: Order) -> dict[str, Any]:
    config = order.train
    store = Store(config.tracking.uri, create=True)
    with training_lock(config, store) as check:
        registered = train(config, store=store, force_new=False)
        check()
        result = judge_and_promote(store, config.name, registered.version, order.gate, order.backtest_config)
        past_runs.remove_abandoned_checkpoints(config.tracking, config.name)
    return {
        "outcome": result.outcome,
        "version": registered.version,
        **_figures(registered.metrics, LEVELS),
        "reason": result.reason,
    }


def _backtest(order: Order) -> dict[str, Any]:
    """Backtest the recipe, unless a finished backtest of the same data is on file."""
    file = order.folder / f"{file_name(order.symbol)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    # fleets of the same recipe share finished backtests
    with FileLock(file.with_suffix(".lock")):
        dataset = load_dataset(order.train)
        if file.exists():
            done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if done["digest"] == dataset.digest:
                return {**done["answer"], "reason": "backtested before, and nothing has changed since"}
        if order.tracked:
            tags = {"fleet": order.folder.name, "symbol": order.symbol}
            metrics = run_backtest(order.train, order.backtest_config, tags, replace_existing=True).metrics
        else:
            checkpoints = order.train.tracking.checkpoints / f"fleet-{order.folder.name}-{dataset.digest[:16]}"
            metrics = score(
                backtest(order.train, order.backtest_config, dataset.series, checkpoints),
                order.backtest_config,
                dataset.series,
            )
            shutil.rmtree(checkpoints, ignore_errors=True)
        answer = {"outcome": TRIED, **_figures(metrics, order.backtest_config.levels), "reason": ""}
        with write_atomically(file, is_locked=True) as draft:
            draft.write_text(
                json.dumps({"digest": dataset.digest, "answer": answer, "metrics": metrics}), encoding="utf-8"
            )
    return answer


_WORK = {"retrain": _retrain, "backtest": _backtest}


def _figures(metrics: dict[str, float], levels: tuple[int, ...]) -> dict[str, float | None]:
    return {
        "relative_mae": metrics.get("relative_mae"),
        "coverage": metrics.get(f"coverage-{min(levels)}") if levels else None,
    }
