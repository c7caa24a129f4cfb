"""Stored prices as a source of series: their quality report, and limits of flagged days."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.bars import Bars
from forecaster.data.sources.stored import StoredSource
from forecaster.data.store import BarStore
from forecaster.data.update import update
from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError, QualityError
from tests.data.prices import Company

HOLES = ["2024-05-06", "2024-05-07", "2024-07-15"]


class SourceWithGaps:
    """A source that lacks three sessions."""

    name = "test"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        bars = Company().bars()
        return Bars(symbol, bars.frame.drop(index=HOLES), bars.origin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    last = np.datetime64("2024-12-31")
    done = update(BarStore(tmp_path), SourceWithGaps(), "ABC", np.datetime64("2024-01-02"), last, datetime.now(UTC))
    assert done.issues == (
        "missing_session: the exchange was open, but there is no bar (3: 2024-05-06, 2024-05-07, 2024-07-15)",
    )
    return tmp_path


def source(folder: Path, **changes: Any) -> StoredSource:
    return build_config(
        {"symbols": ["ABC"], "folder": str(folder), "max_age_sessions": None} | changes, StoredSource, "t"
    )


def test_quality_report_is_stored_with_the_bars(folder: Path) -> None:
    report = json.loads((folder / "ABC.quality.json").read_text())
    (issue,) = report["issues"]
    assert (report["symbol"], issue["rule"], issue["is_hard"], issue["days"]) == (
        "ABC",
        "missing_session",
        False,
        HOLES,
    )


def test_missing_sessions_are_refused_unless_max_flagged_allows_them(folder: Path) -> None:
    with pytest.raises(QualityError, match=r"ABC: missing_session: .*\(3: 2024-05-06, .*max_flagged allows \(0\)"):
        source(folder).load()
    with pytest.raises(QualityError, match=r"allows \(2\)"):
        source(folder, max_flagged={"missing_session": 2}).load()
    for allowed in ({"missing_session": 3}, {}):
        assert len(source(folder, max_flagged=allowed).load()) == 249
    with pytest.raises(ConfigError, match=r"max_flagged: \['holes'\] are not soft rules; choose from inconsistent"):
        source(folder, max_flagged={"holes": 3})


def test_load_adds_bar_features_as_columns(folder: Path) -> None:
    frame = source(folder, max_flagged={}).load(["volume", "return_within", "high"])
    bars = Company().bars().frame.drop(index=HOLES)
    assert list(frame.columns) == ["unique_id", "ds", "y", "volume", "return_within", "high"]
    np.testing.assert_allclose(frame["return_within"], np.log(bars["close"] / bars["open"]), rtol=1e-12)
    np.testing.assert_array_equal(frame["volume"], bars["volume"])
    with pytest.raises(ConfigError, match="bars have no feature 'mood'; choose from"):
        source(folder, max_flagged={}).load(["mood"])


def _written(folder: Path, **changes: Any) -> Path:
    """Store bars with changed cells, as an earlier release may have done."""
    bars = Company(dividends={"2024-06-13": 1.2}).bars()
    for name, (day, value) in changes.items():
        bars.frame.loc[day, name] = value
    store = BarStore(folder)
    with store.lock("ABC"):
        store.write(bars, datetime.now(UTC))
    return folder


def test_spike_is_refused_unless_max_flagged_allows_it(tmp_path: Path) -> None:
    _written(tmp_path, low=("2024-07-10", 1.0))
    with pytest.raises(QualityError, match=r"spike: .*2024-07-10\), more days than data.max_flagged allows \(0\)"):
        source(tmp_path).load()
    assert len(source(tmp_path, max_flagged={"spike": 1}).load()) == 252


def test_load_refuses_bars_of_an_earlier_release_that_break_a_hard_rule(tmp_path: Path) -> None:
    _written(tmp_path, dividend=("2024-06-13", 120.0))
    with pytest.raises(QualityError, match=r"dividend_too_large: .*2024-06-13.*fetch it again"):
        source(tmp_path, max_flagged={}).load()
