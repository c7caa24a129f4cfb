"""Leakage through adjusted prices: transforms that cancel later dividends, and errors for those that do not."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from forecaster.data.adjustment import cancels_factor
from forecaster.data.bar_features import FEATURES, is_price
from forecaster.data.sources import FilesSource, StoredSource
from forecaster.data.sources.files import Columns
from forecaster.data.transforms import Chain, Transforms
from forecaster.domain.errors import ConfigError
from forecaster.domain.series import Floats
from forecaster.training.job import train
from tests.conftest import small_config

KINDS = ["standardize", "min_max", "log", "difference", "last_value", "mean_std"]
CANCEL = [
    ["log", "last_value"],
    ["log", "last_value", "standardize"],
    ["log", "standardize", "last_value"],
    ["log", "difference", "standardize"],
    ["mean_std"],
    ["difference", "mean_std", "min_max"],
]
CARRY = [
    [],
    ["standardize"],
    ["log"],
    ["log", "standardize"],
    ["last_value", "standardize"],
    ["difference"],
    ["min_max"],
]


def chain(kinds: list[str], is_causal: bool) -> Chain:
    steps = TypeAdapter(Transforms).validate_python([{"kind": kind} for kind in kinds])
    return Chain(steps=steps, is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [False, True])
def test_cancels_factor_classifies_chains(is_causal: bool) -> None:
    assert [kinds for kinds in CANCEL if not cancels_factor(chain(kinds, is_causal))] == []
    assert [kinds for kinds in CARRY if cancels_factor(chain(kinds, is_causal))] == []


def every_chain() -> list[list[str]]:
    found = []
    for kinds in itertools.chain.from_iterable(itertools.product(KINDS, repeat=length) for length in range(4)):
        try:
            chain(list(kinds), False)
        except ValidationError:
            continue
        found.append(list(kinds))
    return found


@given(
    prices=arrays(np.float64, (3, 8), elements=st.floats(10, 1000), unique=True),
    factor=st.floats(0.01, 3),
    kinds=st.sampled_from([kinds for kinds in every_chain() if cancels_factor(chain(kinds, False))]),
)
def test_chains_that_cancel_factors_do_so_for_any_window(prices: Floats, factor: float, kinds: list[str]) -> None:
    fitted = chain(kinds, False).fit(lambda: [prices])
    (inputs, contexts), (others, scaled) = fitted.forward(prices), fitted.forward(factor * prices)
    np.testing.assert_allclose(inputs, others, rtol=1e-6, atol=1e-6 * max(1, np.abs(inputs).max()))
    outputs = np.clip(inputs[:, -2:], -3, 3)
    forecasts = fitted.inverse(outputs, contexts)
    np.testing.assert_allclose(factor * forecasts, fitted.inverse(outputs, scaled), rtol=1e-5, atol=1e-5 * factor)


def test_is_price_recognizes_features_that_scale_with_prices() -> None:
    assert [name for name in FEATURES if is_price(name)] == ["open", "high", "low"]


def test_adjusted_returns_columns_that_leak_later_dividends() -> None:
    assert StoredSource(symbols=("A",)).adjusted(["volume", "high", "range_within"]) == ("y", "high")
    close = FilesSource(path=Path("a.csv"))
    assert close.adjusted() == ()
    assert close.model_copy(update={"columns": Columns(ds="Date", y="Adj Close")}).adjusted(["Volume"]) == ("y",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": [{"kind": "standardize"}]}, "^transforms: prices of .* put log and last_value first"),
        ({"transforms": [{"kind": "mean_std"}], "hist_exog": ["open"]}, "^column open: transforms: "),
        (
            {"data": {"source": "files", "path": "a.csv", "columns": {"ds": "Date", "y": "Adj Close"}}},
            "or use prices that are not adjusted",
        ),
    ],
)
def test_train_refuses_chains_that_leak_later_dividends(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    config = small_config(tmp_path / "new", **({"data": {"source": "store", "symbols": ["ABC"]}} | changes))
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert list(tmp_path.iterdir()) == []
