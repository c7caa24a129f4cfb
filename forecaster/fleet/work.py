"""What a worker does for one symbol: an order in, an answer out, whatever happens in between."""

import json
import logging
import os
import random
import shutil
import sys
import time
from typing import Any

from filelock import FileLock

from forecaster.backtesting.backtest import backtest
from forecaster.backtesting.report import score
from forecaster.backtesting.tracking import try_recipe
from forecaster.data.tails import file_name
from forecaster.domain.errors import ForecasterError
from forecaster.domain.files import write_atomically
from forecaster.evaluation.choice import LEVELS
from forecaster.fleet.plan import Order
from forecaster.promotion.promote import settle
from forecaster.registry.store import Store
from forecaster.training import past_runs
from forecaster.training.config import prepare
from forecaster.training.job import digest_series, train
from forecaster.training.lock import training_lock

FAILED, TRIED = "failed", "tried"
# set before the libraries that read them are imported: as many workers as cores, each on one
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # a hundred bars at once tell nobody anything
    "TQDM_DISABLE": "1",
}
_LOCKED, _TRIES, _MOST_SECONDS = "database is locked", 6, 10.0
_log = logging.getLogger(__name__)


def carry_out(text: str) -> str:
    """Carry out an order and return the answer, both as JSON; an error of any kind is the answer's reason.

    The answer has `symbol`, `outcome` (`promoted`, `shadow`, `kept`, `tried` or `failed`), `version`, `relative_mae`,
    `coverage` (of the narrowest intervals), `seconds` and `reason`; what is not known is null.
    """
    order = Order.model_validate_json(text)
    begin = time.perf_counter()
    answer: dict[str, Any] = {"symbol": order.symbol} | dict.fromkeys(("version", "relative_mae", "coverage"))
    try:
        os.chdir(order.home)
        answer |= _patiently(order)
    except ForecasterError as error:
        answer |= {"outcome": FAILED, "reason": str(error)}
    # a mistake of ours in one symbol must not be the others' too; the log has where it is
    except Exception as error:
        _log.exception("symbol %s", order.symbol)
        answer |= {"outcome": FAILED, "reason": f"{type(error).__name__}: {error}"}
    _forget_networks()
    return json.dumps({"seconds": round(time.perf_counter() - begin, 3), **answer})


def _patiently(order: Order) -> dict[str, Any]:
    """Do the work; where SQLite says that others hold it for too long, do it again, which goes on where it was."""
    for attempt in range(1, _TRIES + 1):
        try:
            return _WORK[order.do](order)
        except Exception as error:
            if _LOCKED not in str(error) or attempt == _TRIES:
                raise
            _log.warning("symbol %s: %s; attempt %d of %d", order.symbol, _LOCKED, attempt, _TRIES)
        # not all at the same time once more
        time.sleep(random.uniform(0, min(2.0**attempt, _MOST_SECONDS)))  # noqa: S311
    raise AssertionError("unreachable")


def _retrain(order: Order) -> dict[str, Any]:
    config = order.train
    with training_lock(config) as check:
        registered = train(config, is_anew=False)
        check()
        settled = settle(Store(config.tracking.uri), config.name, registered.version, order.gate, order.trial)
        past_runs.discard_abandoned(config.tracking, config.name)
    return {
        "outcome": settled.outcome,
        "version": registered.version,
        **_figures(registered.metrics, LEVELS),
        "reason": settled.reason,
    }


def _backtest(order: Order) -> dict[str, Any]:
    """Try the recipe unless that was done on the same data; what is finished is one file, whole or not there."""
    file = order.folder / f"{file_name(order.symbol)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    # two fleets of the same recipe share what is done
    with FileLock(file.with_suffix(".lock")):
        series = prepare(order.train, order.train.data.load(order.train.exogenous))
        digest = digest_series(series)
        if file.exists():
            done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if done["digest"] == digest:
                return {**done["answer"], "reason": "tried before, and nothing has changed since"}
        if order.tracked:
            tags = {"fleet": order.folder.name, "symbol": order.symbol}
            metrics = try_recipe(order.train, order.trial, tags, is_anew=True).metrics
        else:
            checkpoints = order.train.tracking.checkpoints / f"fleet-{order.folder.name}-{digest[:16]}"
            metrics = score(backtest(order.train, order.trial, series, checkpoints), order.trial, series)
            shutil.rmtree(checkpoints, ignore_errors=True)
        answer = {"outcome": TRIED, **_figures(metrics, order.trial.levels), "reason": ""}
        with write_atomically(file, is_locked=True) as draft:
            draft.write_text(json.dumps({"digest": digest, "answer": answer, "metrics": metrics}), encoding="utf-8")
    return answer


_WORK = {"retrain": _retrain, "backtest": _backtest}


def _figures(metrics: dict[str, float], levels: tuple[int, ...]) -> dict[str, float | None]:
    return {
        "relative_mae": metrics.get("relative_mae"),
        "coverage": metrics.get(f"coverage-{min(levels)}") if levels else None,
    }


def _forget_networks() -> None:
    """Give back what Keras keeps of the networks so far: a worker makes hundreds."""
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()
