"""What is stored stays one company's: another currency, exchange, zone or first trade is refused in words."""

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
    """A source that tells what it is told to of a company."""

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
        ({"currency": "GBp"}, "its currency is stored as USD, and is now GBp; if that is right, run with --replace"),
        ({"exchange": "NMS"}, "its exchange is stored as NYQ, and is now NMS"),
        ({"zone": "Asia/Tokyo"}, "its zone is stored as America/New_York, and is now Asia/Tokyo"),
        (
            {"first_trade": "2024-06-03"},
            "is stored from 2024-01-02, but test now says that trading began on 2024-06-03",
        ),
    ],
)
def test_another_identity_than_the_stored_one_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    store = BarStore(tmp_path)
    update(store, FixedOriginSource(), "ABC", FIRST, np.datetime64("2024-11-29"), NOW)
    before = contents(store)
    with pytest.raises(QualityError, match=f"ABC: {message}"):
        update(store, FixedOriginSource(change), "ABC", FIRST, LAST, NOW)
    assert contents(store) == before
    # and what is told rightly again is taken
    assert update(store, FixedOriginSource({"first_trade": "1999-03-01"}), "ABC", FIRST, LAST, NOW).new > 0


def test_an_exchange_without_a_calendar_is_named_with_its_symbol_and_may_be_mapped(tmp_path: Path) -> None:
    store, source = BarStore(tmp_path), FixedOriginSource({"exchange": "XYZ"})
    with pytest.raises(
        CalendarError, match=r"^ABC: exchange 'XYZ' has no calendar in the table; set calendar: {ABC: …}"
    ):
        update(store, source, "ABC", FIRST, LAST, NOW, {"DEF": "XNYS"})
    assert update(store, source, "ABC", FIRST, LAST, NOW, {"ABC": "XNYS"}).bars == 252
