"""A stored symbol stays the same security: another currency, exchange, zone or first trade date is refused."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.bars import Bars
from forecaster.data.store import BarStore
from forecaster.data.update import update
from forecaster.domain.errors import CalendarError, QualityError
from tests.data.prices import Company

FIRST, LAST, NOW = np.datetime64("2024-01-02"), np.datetime64("2024-12-31"), datetime(2025, 1, 2, tzinfo=UTC)


@dataclass
class FixedOriginSource:
    """A source of a company's bars with configured origin fields."""

    origin: dict[str, Any] = field(default_factory=dict)
    name: str = "test"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        bars = Company(symbol=symbol).bars(str(first)).until(last)
        return replace(bars, origin=replace(bars.origin, asked_from="", **self.origin))


def contents(store: BarStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"currency": "GBp"}, "its currency was USD and is now GBp; run with --replace if that is right"),
        ({"exchange": "NMS"}, "its exchange was NYQ and is now NMS"),
        ({"zone": "Asia/Tokyo"}, "its zone was America/New_York and is now Asia/Tokyo"),
        (
            {"first_trade": "2024-06-03"},
            "is stored from 2024-01-02, but the first trade date of test is now 2024-06-03",
        ),
    ],
)
def test_update_refuses_another_security(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    store = BarStore(tmp_path)
    update(store, FixedOriginSource(), "ABC", FIRST, np.datetime64("2024-11-29"), NOW)
    before = contents(store)
    with pytest.raises(QualityError, match=f"ABC: {message}"):
        update(store, FixedOriginSource(change), "ABC", FIRST, LAST, NOW)
    assert contents(store) == before
    # a correct origin is accepted again
    assert update(store, FixedOriginSource({"first_trade": "1999-03-01"}), "ABC", FIRST, LAST, NOW).new > 0


def test_update_names_an_exchange_without_a_calendar_and_accepts_a_configured_one(tmp_path: Path) -> None:
    store, source = BarStore(tmp_path), FixedOriginSource({"exchange": "XYZ"})
    with pytest.raises(CalendarError, match=r"^ABC: exchange 'XYZ' has no known calendar; set calendar: {ABC: …}"):
        update(store, source, "ABC", FIRST, LAST, NOW, {"DEF": "XNYS"})
    assert update(store, source, "ABC", FIRST, LAST, NOW, {"ABC": "XNYS"}).bars == 252
