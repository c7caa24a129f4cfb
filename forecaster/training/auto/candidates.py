"""The recipes that `model: auto` tries, cheapest first. To add one, add an entry to `CLOSED_FORMS` or `NETWORKS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forecaster.training.auto.traits import Traits

# values by key: those of `model` and `fit`, and `transforms`
Settings = dict[str, Any]

# of `model.skip_penalty`: from hardly any to the transforms' naive forecast
PENALTIES = (0.001, 0.01, 0.1, 1.0)
# windows that a fit sees, over all of its epochs; and the fewest and the most epochs
_SEEN, _FEWEST, _MOST = 200_000, 4, 60
_LAST_VALUE, _LOG, _STANDARDIZE = {"kind": "last_value"}, {"kind": "log"}, {"kind": "standardize"}
_MEAN_STD = {"kind": "mean_std"}


@dataclass(frozen=True)
class Candidate:
    """A recipe that may be tried.

    Args:
        name: what it is called in the log.
        reason: what speaks for it.
        suits: whether it is tried on such data.
        settings: its values for such data.
        is_beside: of a network, whether it takes the transforms and the regression of the best closed form, and so
            learns what that leaves.
    """

    name: str
    reason: str
    suits: Callable[[Traits], bool]
    settings: Callable[[Traits], Settings]
    is_beside: bool = True


def _always(traits: Traits) -> bool:
    return True


def _has_season(traits: Traits) -> bool:
    return traits.season is not None


def _season(traits: Traits) -> Settings:
    return {"kind": "last_season", "season": traits.season}


def _closed(*transforms: Settings, skip: str = "none") -> Settings:
    """Return a recipe without a network; the smallest one takes its place in the graph."""
    model = {"cell": "simple_rnn", "encoder": {"widths": [1]}, "skip": skip}
    return {"model": model, "transforms": list(transforms), "fit": {"epochs": 0}}


def _ridge(*transforms: Settings) -> Settings:
    return _closed(*transforms, skip="ridge")


def _fit(traits: Traits, **model: Any) -> Settings:
    epochs = min(max(_SEEN // traits.n_windows, _FEWEST), _MOST)
    batch_size = 32 if traits.n_windows < 2_000 else 128
    fit = {"epochs": epochs, "batch_size": batch_size, "learning_rate": 0.002, "schedule": "cosine", "patience": 8}
    return {"model": model, "fit": fit}


CLOSED_FORMS = (
    Candidate(
        "last value",
        "the window tells no more than its last value",
        _always,
        lambda traits: _closed(_LAST_VALUE),
    ),
    Candidate(
        "window mean",
        "the series fluctuates around a level",
        _always,
        lambda traits: _closed(_MEAN_STD),
    ),
    Candidate(
        "seasonal naive",
        "the window tells no more than its last season",
        _has_season,
        lambda traits: _closed(_season(traits)),
    ),
    Candidate(
        "ridge",
        "changes are linear in the window",
        _always,
        lambda traits: _ridge(_LAST_VALUE, _STANDARDIZE),
    ),
    Candidate(
        "ridge around the window's mean",
        "the series returns to its level, linearly in the window",
        _always,
        lambda traits: _ridge(_MEAN_STD),
    ),
    Candidate(
        "ridge of logarithms",
        "changes are proportional to the level, and linear in the window",
        lambda traits: traits.is_positive,
        lambda traits: _ridge(_LOG, _LAST_VALUE, _STANDARDIZE),
    ),
    Candidate(
        "ridge of seasonal differences",
        "seasons repeat, and what changes between them is linear in the window",
        _has_season,
        lambda traits: _ridge(_season(traits), _STANDARDIZE),
    ),
    Candidate(
        "ridge of seasonal differences of logarithms",
        "seasons repeat, and what changes between them is proportional to the level",
        lambda traits: traits.is_positive and _has_season(traits),
        lambda traits: _ridge(_LOG, _season(traits), _STANDARDIZE),
    ),
)

NETWORKS = (
    Candidate(
        "GRU",
        "a small network learns what the closed form leaves",
        lambda traits: traits.n_windows >= 50,
        lambda traits: _fit(traits, cell="gru", encoder={"widths": [16], "dropout": 0.1}),
    ),
    Candidate(
        "GRU of segments",
        "the window is long, and a segment of it becomes one step",
        lambda traits: traits.segment is not None and traits.input_size >= 48,
        lambda traits: _fit(
            traits,
            cell="gru",
            encoder={"widths": [64], "segment_length": traits.segment, "dropout": 0.2},
            decoder="segment_parallel",
        ),
    ),
    Candidate(
        "GRU with a vector for each series",
        "there are several series, which may differ",
        lambda traits: traits.n_series >= 3,
        lambda traits: _fit(traits, cell="gru", encoder={"widths": [32]}, inputs={"series_embedding": 8}),
    ),
    Candidate(
        "LSTM by itself",
        "the series is not linear, and there are rows enough to learn it",
        lambda traits: traits.n_windows >= 500,
        lambda traits: _fit(traits, cell="lstm", encoder={"widths": [32]}) | {"transforms": [_MEAN_STD]},
        is_beside=False,
    ),
)
