"""Quality rules: each broken rule is found on its day, and valid prices break none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import Bars
from forecaster.data.calendars import get_calendar
from forecaster.data.quality import HARD, SOFT, check
from forecaster.domain.errors import QualityError
from tests.data.prices import ORIGIN, Company

DAY = "2024-06-12"
COMPANY = Company(dividends={"2024-03-14": 1.2, "2024-09-12": 1.2}, splits={"2024-07-08": 4.0})
EXPECTED = get_calendar("XNYS").sessions(np.datetime64("2024-01-02"), np.datetime64("2024-12-31"))


def _set(column: str, value: float, day: str = DAY) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[day, column] = value
        return frame

    return change


def _scaled(column: str, factor: float) -> Callable[[Any], Any]:
    def change(frame: Any) -> Any:
        frame.loc[DAY, column] *= factor
        return frame

    return change


def _scale(factor: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[:"2024-07-05", ["open", "high", "low", "close", "adj_close"]] *= factor
        return frame

    return change


def _jump(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[DAY, ["open", "high", "low", "close", "adj_close"]] *= 1.6
    return frame


def _stale(frame: pd.DataFrame) -> pd.DataFrame:
    days = frame[:DAY].tail(5).index
    for column in ("open", "high", "low", "close", "adj_close"):
        frame.loc[days, column] = frame[column][days].iloc[0]
    return frame


def _repeat(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame[:DAY], frame[DAY:]])


def _holiday(frame: pd.DataFrame) -> pd.DataFrame:
    extra = frame.loc[["2024-07-03"]].set_axis(pd.DatetimeIndex(["2024-07-04"]))
    return pd.concat([frame, extra]).sort_index()


def _hidden_dividend(frame: pd.DataFrame) -> pd.DataFrame:
    """Return prices of a few cents, where the rounding of the adjusted closes hides the dividend."""
    scale = 0.02 * frame["dividend"] / frame["dividend"].max()
    frame[["open", "high", "low", "close"]] = (frame[["open", "high", "low", "close"]] / 25).round(2)
    return frame.assign(adj_close=frame["close"], dividend=scale.round(4) * (frame.index < "2024-07-01"), split=0.0)


def _not_adjusted(frame: pd.DataFrame) -> pd.DataFrame:
    frame["adj_close"] = frame["close"]
    return frame


def _nearly_all_paid_out(frame: pd.DataFrame) -> pd.DataFrame:
    frame["dividend"] = frame["close"].shift(1, fill_value=0.0) * (1 - 1e-12)
    return frame


BROKEN: dict[str, list[tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]]] = {
    "bad_price": [
        (DAY, _set("close", np.nan)), (DAY, _set("open", np.inf)), (DAY, _set("low", 0.0)),
        (DAY, _set("adj_close", -1.0)), (DAY, _set("high", np.nan)),
    ],
    "bad_number": [(DAY, _set("volume", np.nan)), (DAY, _set("dividend", -1.0)), (DAY, _set("split", np.inf))],
    "out_of_order": [(DAY, _repeat)],
    "split_not_applied": [("2024-07-08", _scale(4.0))],
    "dividend_too_large": [(DAY, _set("dividend", 200.0))],
    "bad_adjusted_price": [("2024-01-02", _nearly_all_paid_out)],
    "adjusted_otherwise": [
        ("2024-09-11", _not_adjusted), ("2024-09-11", _set("dividend", 1.3 / 4, "2024-09-12")),
        ("2024-06-11", _set("dividend", 0.01)), (DAY, _scaled("adj_close", 1 + 2e-6)),
    ],
    "spike": [
        (DAY, _scaled("low", 0.01)), (DAY, _scaled("high", 100)), (DAY, _scaled("open", 2)), (DAY, _scaled("low", 0.5))
    ],
    "inconsistent": [(DAY, _set("high", 1.0)), (DAY, _set("low", 1e6))],
    "missing_session": [(DAY, lambda frame: frame.drop(index=pd.Timestamp(DAY)))],
    "unexpected_session": [("2024-07-04", _holiday)],
    "outlier": [(DAY, _jump)],
    "stale": [(DAY, _stale)],
    "dividend_not_adjusted": [("2024-03-14", _hidden_dividend)],
}  # fmt: skip


def _changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Bars:
    bars = COMPANY.bars()
    return replace(bars, frame=change(bars.frame.copy()))


def test_valid_prices_break_no_rule() -> None:
    assert check(COMPANY.bars(), EXPECTED).issues == ()


def test_every_rule_has_a_case() -> None:
    assert set(BROKEN) == {*HARD, *SOFT}


@pytest.mark.parametrize(("rule", "day", "change"), [(rule, *case) for rule, cases in BROKEN.items() for case in cases])
def test_check_finds_the_broken_rule_and_its_day(
    rule: str, day: str, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    report = check(_changed(change), EXPECTED)
    issue = next(issue for issue in report.issues if issue.rule == rule)
    assert day in issue.days
    assert issue.is_hard == (rule in HARD)
    if issue.is_hard:
        with pytest.raises(QualityError, match=f"ABC: .*{rule}: .*{day}.*nothing was stored"):
            report.raise_for_hard_issues()
    else:
        report.raise_for_hard_issues()


@pytest.mark.parametrize("ratio", [21 / 20, 11 / 10, 20 / 21, 1.01, 3 / 2])
@pytest.mark.parametrize("move", [-0.04, 0.04, -0.08, 0.1])
def test_applied_split_passes_for_any_return_on_its_day(ratio: float, move: float) -> None:
    frame = Company().bars().frame
    frame.loc[DAY:, ["open", "high", "low", "close", "adj_close"]] *= (1 + move) / (
        frame.loc[DAY, "close"] / frame["close"].shift(1)[DAY]
    )
    frame.loc[DAY, "split"] = ratio
    assert not [issue for issue in check(Bars("ABC", frame, ORIGIN), EXPECTED).issues if issue.is_hard]


@pytest.mark.parametrize("ratio", [4.0, 2.0, 1.5, 1.25, 0.5, 0.1, 100.0])
def test_unapplied_split_is_refused_without_an_adjusted_close(ratio: float) -> None:
    frame = Company().bars().frame
    frame.loc[:"2024-06-11", ["open", "high", "low", "close"]] *= ratio
    frame.loc[DAY, "split"] = ratio
    report = check(Bars("ABC", frame.assign(adj_close=frame["close"]), ORIGIN), EXPECTED)
    assert [(issue.rule, issue.days) for issue in report.issues] == [("split_not_applied", (DAY,))]


def test_small_unapplied_split_contradicts_the_adjusted_close() -> None:
    frame = Company().bars().frame
    frame.loc[:"2024-06-11", ["open", "high", "low", "close"]] *= 1.05
    frame.loc[DAY, "split"] = 1.05
    report = check(Bars("ABC", frame, ORIGIN), EXPECTED)
    assert report.issues[0].rule == "adjusted_otherwise"
    assert "dividends after 2024-06-11" in report.issues[0].message


@pytest.mark.parametrize("places", [2, 4, 6])
def test_rounding_of_prices_breaks_no_rule(places: int) -> None:
    frame = COMPANY.bars().frame
    prices = ["open", "high", "low", "close", "adj_close"]
    assert check(Bars("ABC", frame.assign(**frame[prices].round(places)), ORIGIN), EXPECTED).issues == ()
    spoilt = frame.assign(**frame[prices].round(places))
    spoilt.loc["2024-09-12", "dividend"] = 0.0
    assert [issue.rule for issue in check(Bars("ABC", spoilt, ORIGIN), EXPECTED).issues] == ["adjusted_otherwise"]
