"""Choose a recipe by its errors on the train and validation parts, within a time budget.

First come the closed forms: naive forecasts and ridge regressions, which take no time. The one with the smallest error
counts, on blocks of both parts that are left out in turn, since the validation part alone may be short. Then come
networks. A network can adapt to the validation part, which stops its fit, so it must beat the best closed form there by
more than the noise.

The calibration and test parts are not used.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError, TrainingError
from forecaster.domain.files import write_atomically
from forecaster.domain.missing import mean_of_observed
from forecaster.domain.series import Floats
from forecaster.evaluation.significance import Ratio, compare_losses
from forecaster.training import networks
from forecaster.training.auto import closed_forms
from forecaster.training.auto.candidates import CLOSED_FORMS, NETWORKS, PENALTIES, Candidate, Settings
from forecaster.training.auto.choice import Choice, Trial, dump_choice, read_choice
from forecaster.training.auto.traits import Traits, describe
from forecaster.training.config import TrainConfig, check_adjustment, prepare, split
from forecaster.training.dataset import Dataset
from forecaster.training.folds import blocks
from forecaster.training.residuals import Folds
from forecaster.training.stages import fit_network

MINUTES = 5.0
# a network must be better than the best closed form at this level of significance
_SIGNIFICANCE = 0.05
_FILE, _FOLDER = "choice.json", "choice"
_log = logging.getLogger("forecaster.training")


def choose_recipe(config: TrainConfig, dataset: Dataset, checkpoints: Path) -> Choice:
    """Return the recipe for an open one; a choice that was made before a kill is returned again.

    Args:
        config: the open recipe.
        dataset: its data.
        checkpoints: the folder that keeps the choice, and the fits of a choice that was interrupted.

    Raises:
        ConfigError: no candidate suits what is set; the message has the reasons.
        TooShortError: a part has no window.
    """
    file = checkpoints / _FILE
    if file.exists():
        return read_choice(config, file)
    parts = split(config, dataset.series)
    known = {name: parts[name] for name in ("train", "validation")}
    traits = describe(config, dataset.series, known["train"])
    end = time.monotonic() + 60 * (config.fit.minutes or MINUTES)
    choice = _Race(config, dataset, known, traits, checkpoints / _FOLDER, end).run()
    with write_atomically(file, is_locked=True) as draft:
        draft.write_text(dump_choice(choice), encoding="utf-8")
    shutil.rmtree(checkpoints / _FOLDER, ignore_errors=True)
    return choice


class _OutOfTimeError(Exception):
    """The time budget is used up."""


@dataclass(frozen=True)
class _Result:
    """A candidate that was measured.

    Args:
        candidate: the candidate.
        config: its recipe.
        losses: its MAE at each cutoff: of a network on the validation part.
        ratio: that of a network over that of the best closed form; None if there are too few rows to say.
    """

    candidate: Candidate
    config: TrainConfig
    losses: Floats
    ratio: Ratio | None = None

    def over(self, best: "_Result") -> str:
        """Return how the error compares with that of the best closed form."""
        if self.ratio is None:
            return f"too few rows to compare it with {best.candidate.name}"
        return f"{self.ratio.value:.3f} ± {self.ratio.error:.3f} times the error of {best.candidate.name}"


def _least(results: "Sequence[_Result]") -> _Result:
    return min(results, key=lambda result: float(result.losses.mean()))


@dataclass
class _Race:
    """The candidates' trials, in order.

    Args:
        open_config: the open recipe.
        dataset: its data.
        parts: the train and validation parts.
        traits: what the train part is like.
        folder: where fits are kept until the choice is made.
        end: when the time is used up, as `time.monotonic` counts it.
        trials: what was tried so far.
        tried: the recipes so far; with what is set, two candidates can be the same.
        is_out_of_time: whether a network was stopped because `fit.minutes` were used up.
    """

    open_config: TrainConfig
    dataset: Dataset
    parts: dict[str, Windows]
    traits: Traits
    folder: Path
    end: float
    trials: list[Trial] = field(default_factory=list)
    tried: list[TrainConfig] = field(default_factory=list)
    is_out_of_time: bool = False

    @networks.reuse_networks(most=2)
    def run(self) -> Choice:
        """Try the candidates, and return the choice."""
        _log.info("model: auto: %s", self.traits)
        best = self._best_closed_form()
        candidates = NETWORKS if self.open_config.fit.epochs else ()
        results = [result for candidate in candidates if (result := self._try_network(candidate, best))]
        chosen, reason = self._judge(best, results)
        _log.info("model: auto: chose %s: %s", chosen.candidate.name, reason)
        return Choice(chosen.config, chosen.candidate.name, reason, str(self.traits), tuple(self.trials))

    def _best_closed_form(self) -> _Result | None:
        """Return the closed form with the smallest error on the blocks; None if what is set allows none."""
        folds = self._folds()
        results = [found for candidate in CLOSED_FORMS if (found := self._try_closed_form(candidate, folds))]
        if not results:
            return None
        best = _least(results)
        train, validation = self.parts["train"], self.parts["validation"]
        (forecast,) = closed_forms.forecast(best.config, [best.config.model.skip_penalty], train, validation)
        return replace(best, losses=_by_cutoff(validation, forecast))

    def _try_closed_form(self, candidate: Candidate, folds: Folds) -> _Result | None:
        """Return a candidate with the best penalty of its regression; None if it is not tried."""
        config = self._recipe(candidate, candidate.settings(self.traits)) if self._may_try(candidate) else None
        if config is None:
            return None
        is_open = config.model.skip == "ridge" and "skip_penalty" not in self.open_config.model.model_fields_set
        penalties = PENALTIES if is_open else (config.model.skip_penalty,)
        forecasts = [closed_forms.forecast(config, penalties, seen, held_out) for seen, held_out in folds]
        losses = [
            np.concatenate([_by_cutoff(held_out, each) for (_, held_out), each in zip(folds, of_penalty, strict=True)])
            for of_penalty in zip(*forecasts, strict=True)
        ]
        best = int(np.argmin([each.mean() for each in losses]))
        model = config.model.model_copy(update={"skip_penalty": penalties[best]})
        penalty = f", skip_penalty {penalties[best]:g}" if is_open else ""
        self._note(candidate, float(losses[best].mean()), f"{len(folds)} blocks{penalty}")
        return _Result(candidate, config.model_copy(update={"model": model}), losses[best])

    def _folds(self) -> Folds:
        train, validation = self.parts["train"], self.parts["validation"]
        folds = list(blocks(train, validation)) if self.open_config.split.by == "time" else []
        return folds or [(train, validation)]

    def _try_network(self, candidate: Candidate, best: _Result | None) -> _Result | None:
        if not self._may_try(candidate):
            return None
        settings = candidate.settings(self.traits)
        if candidate.is_beside:
            settings = self._beside(best, settings)
        config = self._recipe(candidate, settings)
        if config is None:
            return None
        begin = time.monotonic()
        try:
            parts = self._parts(config)
            trained, history = fit_network(config, parts, self._place(candidate), self._check_time)
        except _OutOfTimeError:
            self.is_out_of_time = True
            self._note(candidate, None, f"stopped after {time.monotonic() - begin:.0f} s: fit.minutes are used up")
            return None
        except TrainingError as error:
            self._note(candidate, None, str(error))
            return None
        losses = _by_cutoff(parts["validation"], trained.forecast(parts["validation"]).mean)
        ratio = compare_losses(losses, best.losses, config.horizon) if best else None
        result = _Result(candidate, config, losses, ratio)
        outcome = f"{history.epochs} epochs in {time.monotonic() - begin:.0f} s; {candidate.reason}"
        self._note(candidate, float(losses.mean()), f"{result.over(best)}; {outcome}" if best else outcome)
        return result

    def _beside(self, best: _Result | None, settings: Settings) -> Settings:
        """Return a network's settings with the transforms and the regression of the best closed form."""
        if best is None:
            regression: Settings = {"skip": "none" if self.open_config.is_masked else "ridge"}
            transforms: list[Settings] = [{"kind": "last_value"}, {"kind": "standardize"}]
        else:
            regression = {"skip": best.config.model.skip, "skip_penalty": best.config.model.skip_penalty}
            transforms = [step.model_dump() for step in best.config.transforms]
            if "transforms" not in self.open_config.model_fields_set and transforms[-1] != {"kind": "standardize"}:
                transforms.append({"kind": "standardize"})
        return settings | {"transforms": transforms, "model": regression | settings["model"]}

    def _judge(self, best: _Result | None, results: Sequence[_Result]) -> tuple[_Result, str]:
        """Return the result that is chosen, and why."""
        if best is None:
            if not results:
                reasons = "; ".join(f"{trial.name}: {trial.outcome}" for trial in self.trials)
                advice = "raise fit.minutes" if self.is_out_of_time else "set the parts of model"
                raise ConfigError(f"model: auto: no recipe suits what is set ({reasons}); {advice}")
            return _least(results), "it has the smallest error on the validation part"
        better = [result for result in results if result.ratio and result.ratio.p_below() < _SIGNIFICANCE]
        if better:
            return (first := _least(better)), f"{first.candidate.reason}; {first.over(best)}"
        if not results:
            return best, f"{best.candidate.reason}; no network was measured"
        return best, f"{best.candidate.reason}; no network is better by more than the noise"

    def _may_try(self, candidate: Candidate) -> bool:
        """Return whether a candidate suits the data and there is time; the first is always tried."""
        if not candidate.suits(self.traits):
            return False
        if self.tried and time.monotonic() > self.end:
            self._note(candidate, None, "not tried: fit.minutes are used up")
            return False
        return True

    def _recipe(self, candidate: Candidate, settings: Settings) -> TrainConfig | None:
        """Return the open recipe with a candidate's settings; None if they conflict with what is set."""
        try:
            config = resolve(self.open_config, settings)
            check_adjustment(config)
        except ConfigError as error:
            self._note(candidate, None, str(error))
            return None
        if config in self.tried:
            return None
        self.tried.append(config)
        return config

    def _parts(self, config: TrainConfig) -> dict[str, Windows]:
        """Return the train and validation parts as a recipe sees them."""
        if config.model.inputs == self.open_config.model.inputs:
            return self.parts
        parts = split(config, prepare(config, self.dataset.frame))
        return {name: parts[name] for name in self.parts}

    def _place(self, candidate: Candidate) -> Path:
        folder = self.folder / candidate.name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _check_time(self, *epoch: Any) -> None:
        if time.monotonic() > self.end:
            raise _OutOfTimeError

    def _note(self, candidate: Candidate, error: float | None, outcome: str) -> None:
        self.trials.append(Trial(candidate.name, error, outcome))
        measured = "" if error is None else f"MAE {error:.4g}, "
        _log.info("model: auto: %s: %s%s", candidate.name, measured, outcome)


def resolve(config: TrainConfig, settings: Settings) -> TrainConfig:
    """Return an open recipe with these settings where nothing is set, as a plain recipe.

    `fit.epochs` is the largest number of epochs, so that a recipe without a network keeps to any that is set.

    Raises:
        ConfigError: the settings conflict with what is set.
    """
    raw = config.model_dump(mode="json")
    model = {name: value for name, value in raw["model"].items() if name != "kind"}
    fit = {name: value for name, value in raw["fit"].items() if name != "minutes"}
    if settings["fit"]["epochs"] == 0:
        # a schedule that is set means nothing without a network
        fit = {name: value for name, value in fit.items() if name != "schedule"} | {"epochs": 0}
    chosen = {
        "model": settings["model"] | model,
        "fit": settings["fit"] | fit,
        "transforms": raw.get("transforms", settings["transforms"]),
    }
    return build_config(raw | chosen, TrainConfig, "model: auto")


def _losses(windows: Windows, forecast: Floats) -> Floats:
    """Return the MAE of each window, `(n,)`; missing if no target is observed."""
    return mean_of_observed(np.abs(windows.targets() - forecast))


def _by_cutoff(windows: Windows, forecast: Floats) -> Floats:
    """Return the mean of the windows' MAE at each cutoff, in order."""
    losses = _losses(windows, forecast)
    is_known = ~np.isnan(losses)
    starts = windows.timestamps[windows.starts(np.arange(len(windows)))]
    _, numbers = np.unique(starts[is_known], return_inverse=True)
    return np.asarray(np.bincount(numbers, losses[is_known]) / np.bincount(numbers))
