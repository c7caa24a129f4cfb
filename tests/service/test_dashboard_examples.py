"""The dashboard's rows: made-up ones keep a model's frequency, pasted ones become what a request has."""

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Page, expect

from forecaster.domain.frequency import parse

MANIFEST: dict[str, Any] = {
    "input_size": 30,
    "horizon": 4,
    "sessions": None,
    "transforms": [{"kind": "standardize", "offset": 5.0, "scale": 2.0}],
    "is_positive": False,
    "hist_exog": {},
    "futr_exog": {},
}


@pytest.fixture(scope="module")
def loaded(browser: Browser, site: str) -> Page:
    page = browser.new_page()
    page.goto(site)
    return page


def example(page: Page, days: list[str] | None = None, **changes: Any) -> list[list[str]]:
    """Return the example's lines, header first."""
    call = "async ([m, days]) => (await import('/dashboard/example.js')).exampleCsv(m, days)"
    text: str = page.evaluate(call, [MANIFEST | changes, days])
    return [line.split(",") for line in text.splitlines()]


def read(page: Page, text: str, **changes: Any) -> dict[str, Any]:
    call = "async ([text, m]) => (await import('/dashboard/csv.js')).readCsv(text, 'a', m)"
    found: dict[str, Any] = page.evaluate(call, [text, MANIFEST | changes])
    return found


@pytest.mark.parametrize(
    ("freq", "until"),
    [
        ("s", "2026-03-01T00:00:07"),
        ("15min", "2026-03-01T00:15:00"),
        ("h", "2026-03-01T07:00:00"),
        ("D", "2026-03-01"),
        ("7D", "2026-03-01"),
        ("B", "2026-03-02"),
        ("MS", "2026-03-01"),
        ("ME", "2026-03-31"),
        ("3MS", "2026-01-01"),
        ("12ME", "2026-02-28"),
    ],
)
def test_an_example_keeps_the_models_frequency_up_to_where_it_was_trained(loaded: Page, freq: str, until: str) -> None:
    header, *rows = example(loaded, freq=freq, trained_until=f"{np.datetime64(until, 'ns')}")
    assert header == ["ds", "y"]
    times = np.array([row[0] for row in rows], dtype="M8[us]")
    assert len(times) == 60
    assert times[-1] == np.datetime64(until)
    assert len(parse(freq).breaks(times)) == 0
    values = np.array([float(row[1]) for row in rows])
    assert abs(values - 5).max() <= 2
    assert values.std() > 1


def test_an_example_on_a_calendar_takes_stored_days(loaded: Page) -> None:
    days = [f"2026-01-{day:02d}" for day in range(1, 31)]
    calendar: dict[str, Any] = {"freq": "XNYS", "sessions": {"name": "XNYS"}}
    _, *rows = example(loaded, days, **calendar)
    assert [row[0] for row in rows] == days
    with pytest.raises(Error, match="no days of XNYS are stored to make an example of"):
        example(loaded, **calendar)


def test_an_example_has_the_columns_that_the_model_takes(loaded: Page) -> None:
    exog: dict[str, Any] = {"hist_exog": {"load": []}, "futr_exog": {"heat": {}}}
    header, *rows = example(loaded, None, freq="D", trained_until="2026-03-01T00:00:00", **exog)
    assert header == ["ds", "y", "load", "heat"]
    assert [row[1] for row in rows[-5:]][1:] == [""] * 4
    found = read(loaded, "\n".join(",".join(row) for row in [header, *rows]), **exog)
    lengths = [len(column) for column in (found["ds"], found["y"], found["hist_exog"]["load"])]
    assert lengths == [60] * 3
    assert len(found["futr_exog"]["heat"]) == 64


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["", "ds{0}y\n"])
def test_pasted_rows_become_a_series(loaded: Page, mark: str, header: str) -> None:
    text = f'{header.format(mark)}2026-01-01{mark}1.5\r\n\n"2026-01-02" {mark} -2e3\n'
    expected = {"unique_id": "a", "ds": ["2026-01-01", "2026-01-02"], "y": [1.5, -2000], "hist_exog": {}}
    assert read(loaded, text) == expected | {"futr_exog": {}}


def test_columns_may_stand_in_any_order(loaded: Page) -> None:
    found = read(loaded, "ds,other,y\n2026-01-01,7,1")
    assert found["y"] == [1]


def test_without_charts_the_tables_remain(page: Page, site: str) -> None:
    page.route("**/plotly.min.js", lambda route: route.abort())
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    expect(page.locator("#problems")).to_contain_text("Charts cannot be drawn")
    page.select_option("#model", "sine")
    page.click("#example")
    page.click("#forecast")
    expect(page.locator("#forecast-table tbody tr")).to_have_count(4)


def test_without_a_model_it_is_said_what_to_do(page: Page, site: str) -> None:
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": []}))
    page.goto(site)
    expect(page.locator("#problems")).to_contain_text("No model is served yet; train one and promote it")
    expect(page.locator("#forecast")).to_be_disabled()
