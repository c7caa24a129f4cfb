"""Transforms: exact inverse, causality, and fits in chunks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter

from forecaster.data.transforms import AnyTransform, Chain
from forecaster.domain.errors import SeriesError
from forecaster.domain.series import Floats
from forecaster.evaluation.baselines import seasonal_naive

KINDS = ["standardize", "min_max", "log", "log1p", "difference", "last_value", "mean_std"]
# a season, which the horizon exceeds
SEASON = 3
CHAINS = [
    ["standardize"], ["min_max"], ["log"], ["log1p"], ["difference"], ["last_value"], ["mean_std"],
    ["log", "last_value", "standardize"], ["log", "difference", "standardize"], ["mean_std", "min_max"], [],
]  # fmt: skip
BATCH, TIME, HORIZON = 3, 7, 4

values = arrays(np.float64, (BATCH, TIME + HORIZON), elements=st.floats(0.5, 1e6))


def step_of(kind: str) -> Any:
    own = {"season": SEASON} if kind == "last_season" else {}
    return TypeAdapter(AnyTransform).validate_python({"kind": kind} | own)


def chain(kinds: Iterable[str], is_causal: bool, training: Floats) -> Chain:
    steps = tuple(map(step_of, kinds))
    return Chain(steps=steps, is_causal=is_causal).fit(lambda: [training[:2], training[2:]])


@pytest.mark.parametrize("kinds", [["last_season"], ["log", "last_season", "standardize"]], ids="-".join)
@given(values=values)
def test_seasonal_differences_restore_the_targets(kinds: list[str], values: Floats) -> None:
    fitted = chain(kinds, False, values)
    targets = values[:, TIME:]
    _, contexts = fitted.forward(values[:, :TIME])
    back = fitted.inverse(fitted.targets(targets, contexts), contexts)
    np.testing.assert_allclose(back, targets, rtol=1e-9, atol=1e-7 * np.abs(values).max())


@given(values=values)
def test_seasonal_differences_of_zero_are_the_seasonal_naive_forecast(values: Floats) -> None:
    fitted, inputs = chain(["last_season"], False, values), values[:, :TIME]
    transformed, contexts = fitted.forward(inputs)
    np.testing.assert_array_equal(transformed[:, :SEASON], 0)
    np.testing.assert_array_equal(transformed[:, SEASON:], inputs[:, SEASON:] - inputs[:, :-SEASON])
    naive = seasonal_naive(inputs, HORIZON, SEASON)
    np.testing.assert_array_equal(fitted.inverse(np.zeros((BATCH, HORIZON)), contexts), naive)


def each_step(all_values: Floats) -> Floats:
    """Return many-to-many targets `(batch, time, horizon)`."""
    return np.stack([all_values[:, t + 1 : t + 1 + HORIZON] for t in range(TIME)], axis=1)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kinds", CHAINS, ids="-".join)
@given(values=values)
def test_inverse_restores_the_targets(kinds: list[str], is_causal: bool, values: Floats) -> None:
    fitted = chain(kinds, is_causal, values)
    inputs = values[:, :TIME]
    targets = each_step(values) if is_causal else values[:, TIME:]
    _, contexts = fitted.forward(inputs)
    back = fitted.inverse(fitted.targets(targets, contexts), contexts)
    np.testing.assert_allclose(back, targets, rtol=1e-9, atol=1e-7 * np.abs(values).max())
    # the last step's forecast is served
    last = fitted.last_contexts(contexts)
    final = values[:, TIME:]
    np.testing.assert_allclose(
        fitted.inverse(fitted.targets(final, last), last), final, atol=1e-7 * np.abs(values).max()
    )


@pytest.mark.parametrize("kinds", CHAINS, ids="-".join)
@given(values=values, step=st.integers(0, TIME - 2), change=st.floats(-0.4, 1e5))
def test_causal_steps_do_not_depend_on_later_values(kinds: list[str], values: Floats, step: int, change: float) -> None:
    fitted = chain(kinds, True, values)
    inputs = values[:, :TIME]
    changed = inputs.copy()
    changed[:, step + 1 :] += change
    outputs = np.ones((BATCH, TIME, HORIZON))
    for before, after in zip(_seen(fitted, inputs, outputs), _seen(fitted, changed, outputs), strict=True):
        np.testing.assert_array_equal(before[:, : step + 1], after[:, : step + 1])


def _seen(fitted: Chain, inputs: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    transformed, contexts = fitted.forward(inputs)
    return transformed, fitted.inverse(outputs, contexts)


@given(values=values)
def test_fit_in_chunks_equals_fit_at_once(values: Floats) -> None:
    for kind in ("standardize", "min_max"):
        (step,) = chain([kind], False, values).steps
        at_once: Any = TypeAdapter(AnyTransform).validate_python({"kind": kind}).fit([values])
        assert step.offset == pytest.approx(at_once.offset, rel=1e-9)  # type: ignore[union-attr]
        assert step.scale == pytest.approx(at_once.scale, rel=1e-6, abs=1e-6)  # type: ignore[union-attr]


def test_standardize_and_min_max_scale_the_training_values() -> None:
    training = np.random.default_rng(0).normal(50, 4, (100, TIME))
    standardized, _ = chain(["standardize"], False, training).forward(training)
    assert standardized.mean() == pytest.approx(0, abs=1e-12)
    assert standardized.std() == pytest.approx(1)
    bounded, _ = chain(["min_max"], False, training).forward(training)
    assert (bounded.min(), bounded.max()) == (0, 1)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    ("kinds", "is_same"),
    [
        (["log", "last_value"], True),
        (["log", "difference"], True),
        (["log", "last_value", "standardize"], True),
        (["mean_std"], True),
        (["last_value"], False),
        (["difference"], False),
        (["standardize"], False),
        (["min_max"], False),
        (["log"], False),
        (["log", "standardize"], False),
        ([], False),
    ],
)
def test_chains_that_cancel_the_factor_of_later_dividends(kinds: list[str], is_same: bool, is_causal: bool) -> None:
    window = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, (3, TIME)), axis=1))
    fitted = chain(kinds, is_causal, window)
    as_paid, adjusted = fitted.forward(window)[0], fitted.forward(0.7 * window)[0]
    assert np.allclose(as_paid, adjusted, rtol=1e-6, atol=1e-9) == is_same


def test_constant_windows_give_finite_values() -> None:
    constant = np.full((4, TIME + HORIZON), 3.0)
    for kind in KINDS:
        for is_causal in (False, True):
            fitted = chain([kind], is_causal, constant)
            transformed, contexts = fitted.forward(constant[:, :TIME])
            zeros = np.zeros((4, TIME, HORIZON) if is_causal else (4, HORIZON))
            assert np.isfinite(transformed).all()
            assert np.isfinite(fitted.inverse(zeros, contexts)).all()


def test_difference_of_large_values_keeps_precision() -> None:
    window = 7e5 + np.linspace(0, 1e-3, TIME)[None]
    transformed, _ = chain(["last_value"], False, np.tile(window, (3, 1))).forward(window)
    np.testing.assert_allclose(transformed, np.linspace(-1e-3, 0, TIME)[None], atol=1e-9)


def test_log_error_names_the_row() -> None:
    fitted = Chain(steps=(TypeAdapter(AnyTransform).validate_python({"kind": "log"}),), is_causal=False)
    with pytest.raises(SeriesError, match=r"prices.csv, row 2: y is 0, but transforms: log needs values above 0"):
        fitted.check(np.array([1.0, 2.0, 0.0, -1.0]), "prices.csv")


masks = arrays(np.bool_, (BATCH, TIME))


@pytest.mark.parametrize("kinds", [kinds for kinds in CHAINS if "difference" not in kinds], ids="-".join)
@given(values=values, is_missing=masks, is_causal=st.booleans())
def test_missing_values_stay_missing_and_the_others_round_trip(
    kinds: list[str], values: Floats, is_missing: Floats, is_causal: bool
) -> None:
    is_missing[:, 2] = False
    inputs, targets = np.where(is_missing, np.nan, values[:, :TIME]), values[:, TIME:]
    steps = chain(kinds, is_causal, values).steps
    masked = Chain(steps=steps, is_causal=is_causal, is_masked=True)
    transformed, contexts = masked.forward(inputs)
    np.testing.assert_array_equal(np.isnan(transformed), is_missing)
    last = masked.last_contexts(contexts)
    np.testing.assert_allclose(
        masked.inverse(masked.targets(targets, last), last), targets, rtol=1e-9, atol=1e-7 * np.abs(values).max()
    )
    # without missing values, nothing changes
    for found, expected in zip(
        masked.forward(values[:, :TIME]), chain(kinds, is_causal, values).forward(values[:, :TIME]), strict=True
    ):
        if isinstance(found, np.ndarray):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kinds", [["last_value"], ["mean_std"], ["log", "last_value", "standardize"]], ids="-".join)
@given(values=values, is_missing=masks, is_causal=st.booleans())
def test_masked_statistics_are_those_of_the_observed_values(
    kinds: list[str], values: Floats, is_missing: Floats, is_causal: bool
) -> None:
    is_missing[:, 2] = False
    steps = chain(kinds, is_causal, values).steps
    masked, plain = (Chain(steps=steps, is_causal=is_causal, is_masked=flag) for flag in (True, False))
    for row, at in zip(values[:, :TIME], is_missing, strict=True):
        transformed, contexts = masked.forward(np.where(at, np.nan, row)[None])
        # the same series without the rows that are missing
        expected, others = plain.forward(row[~at][None])
        np.testing.assert_allclose(transformed[0, ~at], expected[0], rtol=1e-6, atol=1e-6)
        for context, other in zip(masked.last_contexts(contexts), plain.last_contexts(others), strict=True):
            for found, wanted in zip(context, other, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
