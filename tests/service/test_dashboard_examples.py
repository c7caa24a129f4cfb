"""The rows of the dashboard's form, from an example or pasted, become the series of a request."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect

MANIFEST: dict[str, Any] = {"hist_exog": {}, "futr_exog": {}, "stat_exog": {}}


@pytest.fixture(scope="module")
def loaded(browser: Browser, site: str) -> Page:
    page = browser.new_page()
    page.goto(site)
    return page


def read(page: Page, text: str, **changes: Any) -> dict[str, Any]:
    call = "async ([text, m]) => (await import('/dashboard/csv.js')).readCsv(text, 'a', m)"
    found: dict[str, Any] = page.evaluate(call, [text, MANIFEST | changes])
    return found


def test_example_has_the_columns_of_the_model(loaded: Page) -> None:
    exog: dict[str, Any] = {"hist_exog": {"load": []}, "futr_exog": {"heat": {}}}
    # a scale, and the values of a category
    exog["stat_exog"] = {"area": {"offset": 1.0}, "region": {"values": ["north"]}}
    past, future = ["2026-01-01T00:00:00", "2026-01-02T00:00:00"], ["2026-01-03T00:00:00"]
    series = {
        "unique_id": "a",
        "ds": past,
        "y": [0.1, 2e-7],
        "hist_exog": {"load": [1, 2.5]},
        "futr_exog": {"heat": [3, 4, -5]},
        "stat_exog": {"area": 10.5, "region": "north"},
    }
    call = "async (example) => (await import('/dashboard/example.js')).exampleCsv(example)"
    text = loaded.evaluate(call, {"series": series, "forecast": {"ds": future}})
    assert text.splitlines()[0] == "ds,y,load,heat,area,region"
    assert read(loaded, text, **exog) == series


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["", "ds{0}y\n"])
def test_pasted_rows_become_a_series(loaded: Page, delimiter: str, header: str) -> None:
    text = f'{header.format(delimiter)}2026-01-01{delimiter}1.5\r\n\n"2026-01-02" {delimiter} -2e3\n'
    expected = {"unique_id": "a", "ds": ["2026-01-01", "2026-01-02"], "y": [1.5, -2000], "hist_exog": {}}
    assert read(loaded, text) == expected | {"futr_exog": {}, "stat_exog": {}}


def test_columns_may_be_in_any_order(loaded: Page) -> None:
    found = read(loaded, "ds,other,y\n2026-01-01,7,1")
    assert found["y"] == [1]


def test_empty_cells_are_missing_values_if_the_model_takes_them(loaded: Page) -> None:
    text = "ds,y,load,heat\n2026-01-01,1,,5\n2026-01-02,,2,6\n2026-01-03,3,4,7\n2026-01-04,,,8"
    found = read(loaded, text, missing="mask", hist_exog={"load": []}, futr_exog={"heat": {}})
    assert (found["y"], found["hist_exog"], found["futr_exog"]) == (
        [1, None, 3],
        {"load": [None, 2, 4]},
        {"heat": [5, 6, 7, 8]},
    )
    with pytest.raises(Error, match="line 4: rows without y come last"):
        read(loaded, text, missing="refuse", hist_exog={"load": []}, futr_exog={"heat": {}})


def test_tables_work_without_charts(page: Page, site: str) -> None:
    page.route("**/plotly.min.js", lambda route: route.abort())
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    expect(page.locator("#problems")).to_contain_text("Charts cannot be drawn")
    page.select_option("#model", "sine")
    page.click("#example")
    expect(page.locator("#csv")).not_to_be_empty()
    page.click("#forecast")
    expect(page.locator("#result-title")).to_have_text("example")
    expect(page.locator("#forecast-table tbody tr")).to_have_count(4)


def test_dashboard_without_models_tells_what_to_do(page: Page, site: str) -> None:
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": []}))
    page.goto(site)
    expect(page.locator("#problems")).to_contain_text("No model is served yet; train and promote one")
    expect(page.locator("#forecast")).to_be_disabled()
