"""The dashboard in a browser, with a running service: its requests, charts, tables and messages."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import series
from tests.service.site import BARS, HOSTILE, N_BARS, serving

KEY = "right"


@pytest.fixture
def checked_page(page: Page, site: str) -> Iterator[Page]:
    """Yield a page that must send requests to this service only, and must not log warnings or errors."""
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    yield page
    assert requests
    assert not [url for url in requests if not url.startswith((f"{site}/", "data:"))]
    assert problems == []


def open_dashboard(page: Page, site: str, model: str = "sine") -> None:
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    page.select_option("#model", model)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")


def paste_rows(page: Page, name: str = "a", length: int = 30) -> None:
    history = series(length)
    page.check("#from-text")
    page.fill("#name", name)
    page.fill("#csv", "\n".join(f"{ds},{y!r}" for ds, y in zip(history["ds"], history["y"], strict=True)))


def request_forecast(page: Page) -> dict[str, Any]:
    """Press Forecast and return the service's answer."""
    with page.expect_response(lambda answer: answer.url.endswith("/v1/forecasts") and answer.status == 200) as response:
        page.click("#forecast")
    expect(page.locator("#status")).to_contain_text("Forecast of")
    answer: dict[str, Any] = response.value.json()
    return answer


def post(site: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(f"{site}{path}", json.dumps(body).encode())) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def traces(page: Page, chart: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return a chart's traces by name, once those of `names` are drawn."""
    are_drawn = "([id, names]) => names.every((name) => document.getElementById(id).data?.some((t) => t.name === name))"
    page.wait_for_function(are_drawn, arg=[chart, list(names)])
    fields = "(e) => e.data.map(({name, type, x, y, open, close}) => ({name, type, x, y, open, close}))"
    return {trace["name"]: trace for trace in page.locator(f"#{chart}").evaluate(fields)}


def table_rows(page: Page, selector: str) -> list[list[str]]:
    """Return the texts of a table's cells by row."""
    rows: list[list[str]] = page.locator(f"{selector} tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return rows


def test_requested_forecast_is_shown_as_the_service_answers_it(checked_page: Page, site: str) -> None:
    open_dashboard(checked_page, site)
    checked_page.click("#example")
    expect(checked_page.locator("#csv")).not_to_be_empty()
    rows = checked_page.input_value("#csv").splitlines()[1:]
    assert len(rows) == 24
    answer = request_forecast(checked_page)
    (served,) = answer["forecasts"]
    drawn = traces(checked_page, "forecast-chart", ("Forecast", "History", "80 % interval", "95 % interval"))
    last = float(rows[-1].split(",")[1])
    assert drawn["Forecast"]["x"] == [served["cutoff"], *served["ds"]]
    assert drawn["Forecast"]["y"] == [last, *served["mean"]]
    for level in (80, 95):
        outline = [last, *served[f"hi-{level}"], *reversed(served[f"lo-{level}"]), last]
        assert drawn[f"{level} % interval"]["y"] == outline
    assert drawn["History"]["y"] == [float(row.split(",")[1]) for row in rows]
    shown = table_rows(checked_page, "#forecast-table")
    names = ("mean", "lo-80", "hi-80", "lo-95", "hi-95")
    assert [[float(text) for text in row[1:6]] for row in shown] == [
        pytest.approx([served[name][step] for name in names], abs=1e-4) for step in range(4)
    ]
    relative = answer["skill"]["relative_mae"]
    expect(checked_page.locator("#evidence")).to_contain_text(f"{relative:.3f}")
    expect(checked_page.locator("#evidence")).to_contain_text("smaller than that of the last value")
    expect(checked_page.locator("#result-by")).to_contain_text("By sine, version 1 (champion).")
    expect(checked_page.locator("#warnings")).to_be_empty()


def test_stored_series_is_drawn_as_candles_below_the_warning_about_skill(checked_page: Page, site: str) -> None:
    open_dashboard(checked_page, site, "walk")
    checked_page.select_option("#stored", BARS)
    answer = request_forecast(checked_page)
    with urllib.request.urlopen(f"{site}/v1/series/{BARS}") as found:
        stored = json.load(found)
    checked_page.select_option("#shown", "all")
    checked_page.wait_for_function(f"() => document.getElementById('forecast-chart').data[0].x.length === {N_BARS}")
    candles = traces(checked_page, "forecast-chart", ("Forecast",))["Bars"]
    assert candles["type"] == "candlestick"
    assert (candles["x"], candles["close"]) == (stored["ds"], stored["close"])
    # weekends leave no gaps in the chart
    closed = checked_page.locator("#forecast-chart").evaluate("(e) => e.layout.xaxis.rangebreaks[0].values")
    assert closed[:4] == ["2026-01-10", "2026-01-11", "2026-01-17", "2026-01-18"]
    assert answer["forecasts"][0]["unique_id"] == BARS
    warning = checked_page.locator("#warnings .strong")
    expect(warning).to_contain_text("No demonstrated skill")
    above, below = warning.bounding_box(), checked_page.locator("#forecast-chart").bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"]


def test_baseline_that_forecasts_is_named(site_settings: dict[str, Any], page: Page) -> None:
    with serving(Settings(**site_settings, without_skill="baseline")) as site:
        open_dashboard(page, site, "walk")
        request_forecast(page)
        expect(page.locator("#result-by")).to_contain_text("By the naive baseline, the last value, in place of walk")
        traces(page, "forecast-chart", ("Baseline’s forecast",))


def test_steps_beyond_the_trained_horizon_have_no_interval(checked_page: Page, site: str) -> None:
    open_dashboard(checked_page, site)
    paste_rows(checked_page)
    checked_page.fill("#horizon", "6")
    request_forecast(checked_page)
    drawn = traces(checked_page, "forecast-chart", ("Forecast",))
    assert len(drawn["Forecast"]["y"]) == 7
    assert len(drawn["80 % interval"]["y"]) == 10
    assert [row[2] for row in table_rows(checked_page, "#forecast-table")][4:] == ["–", "–"]
    expect(checked_page.locator("#warnings")).to_contain_text("later steps are rolled out on the model's own output")


def test_past_forecasts_are_shown_with_their_actuals(checked_page: Page, site: str) -> None:
    body = {"model": "sine", "series": [series(unique_id="past")], "level": [80, 95]}
    (served,) = post(site, "/v1/forecasts", body)["forecasts"]
    actuals = [(served["mean"][0] + served["hi-95"][0]) / 2, served["mean"][1], served["hi-95"][2] + 1]
    rows = [{"unique_id": "past", "ds": ds, "y": y} for ds, y in zip(served["ds"], actuals, strict=False)]
    post(site, "/v1/actuals", {"actuals": rows})
    open_dashboard(checked_page, site)
    paste_rows(checked_page, "past")
    checked_page.locator("#name").blur()
    drawn = traces(checked_page, "past-chart", ("Actuals", "Forecasts"))
    assert (drawn["Actuals"]["x"], drawn["Actuals"]["y"]) == (served["ds"][:3], actuals)
    assert drawn["Forecasts"]["y"] == served["mean"]
    (row,) = table_rows(checked_page, "#past-table")
    errors = [abs(mean - y) for mean, y in zip(served["mean"], actuals, strict=False)]
    assert row[3] == "3 of 4"
    assert float(row[4]) == pytest.approx(sum(errors) / 3, rel=5e-3)
    assert row[6] == "2 of 3"
    expect(checked_page.locator("#realised-note")).to_contain_text("steps of sine have actuals")
    with urllib.request.urlopen(f"{site}/v1/skill?model=sine&by=step") as found:
        steps = json.load(found)["realised"]
    by_step = table_rows(checked_page, "#realised-tables > .scroll:nth-child(2)")
    assert [(row[0], row[1], row[2]) for row in by_step] == [
        (str(step["group"]), str(step["n_scores"]), f"{step['relative_mae']:.3f}") for step in steps
    ]
    traces(checked_page, "error-chart", ("Relative MAE",))
    traces(checked_page, "coverage-chart", ("80 % interval", "95 % interval"))


def test_late_answer_to_an_earlier_request_is_not_shown(page: Page, site: str) -> None:
    held: list[Route] = []
    open_dashboard(page, site, "walk")

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/forecasts", hold)
    page.select_option("#stored", HOSTILE)
    with page.expect_request("**/v1/forecasts"):
        page.click("#forecast")
    page.select_option("#stored", BARS)
    expect(page.locator("#result-title")).to_have_text(BARS)
    with page.expect_response("**/v1/forecasts") as late:
        held[0].continue_()
    late.value.finished()
    # longer than the page takes to show an answer
    page.wait_for_timeout(300)
    expect(page.locator("#result-title")).to_have_text(BARS)
    expect(page.locator("#forecast-table")).to_be_empty()


def test_versions_are_listed_with_their_runs(site_settings: dict[str, Any], models: TrainedModels, page: Page) -> None:
    with serving(Settings(**site_settings, mlflow_url="http://127.0.0.1:5000/")) as site:
        open_dashboard(page, site)
        rows = table_rows(page, "#versions-table")
        assert [(row[0], row[1].strip(), row[2]) for row in rows] == [
            ("2", "", "lstm, many-to-many"),
            ("1", "champion", "gru, many-to-one"),
        ]
        link = page.locator("#versions-table a").nth(1)
        expect(link).to_have_attribute("href", f"http://127.0.0.1:5000/#/runs/{models.versions[0].run_id}")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2026-01-01T00:00:00,1\n2026-01-01T01:00:00,2", "has 2 values, and the model needs 24"),
        ("ds,y\n2026-01-01,one", "Line 2: 'one' is not a value of y; write a number"),
        ("ds,value\n2026-01-01,1", "no column y"),
        ("2026-01-01,\n2026-01-02,1", "Line 2: rows without y come last"),
        ("", "There are no rows"),
    ],
)
def test_invalid_rows_get_a_clear_error(page: Page, site: str, rows: str, message: str) -> None:
    open_dashboard(page, site)
    page.check("#from-text")
    page.fill("#csv", rows)
    page.click("#forecast")
    expect(page.get_by_role("alert")).to_contain_text(message)
    # the error disappears once the rows are correct
    paste_rows(page)
    request_forecast(page)
    expect(page.locator("#problems")).to_be_empty()


def test_unreachable_service_is_reported(site_settings: dict[str, Any], page: Page) -> None:
    with serving(Settings(**site_settings)) as site:
        open_dashboard(page, site)
        paste_rows(page)
    page.click("#forecast")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")


def test_names_are_shown_as_text_and_not_as_html(checked_page: Page, site: str) -> None:
    open_dashboard(checked_page, site, "walk")
    checked_page.select_option("#stored", HOSTILE)
    request_forecast(checked_page)
    expect(checked_page.locator("#result-title")).to_have_text(HOSTILE)
    expect(checked_page.locator("#past-table caption")).to_contain_text(HOSTILE)
    checked_page.select_option("#model", "sine")
    # typed while the model is still being opened, which must not replace it
    paste_rows(checked_page, f"{HOSTILE}<b>")
    request_forecast(checked_page)
    expect(checked_page.locator("#result-title")).to_have_text(f"{HOSTILE}<b>")
    checked_page.fill("#csv", f"{HOSTILE},{HOSTILE}")
    checked_page.click("#forecast")
    expect(checked_page.get_by_role("alert")).to_contain_text(HOSTILE)
    assert checked_page.locator("img[src=x], main b").count() == 0


def test_api_key_is_requested_and_kept_in_its_tab_only(page: Page, site: str) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            problem = {"title": "Unauthorized", "status": 401, "detail": "a key is needed"}
            route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/v1/**", guard)
    page.goto(site)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("API key required")
    page.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("does not accept")
    page.get_by_label("API key", exact=True).fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#forecast")).to_be_enabled()
    paste_rows(page)
    request_forecast(page)
    kept = "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    assert page.evaluate(kept) == [[KEY], [], ""]
    page.click("#forget-key")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("The service needs an API key")


def test_drift_of_the_inputs_is_shown(checked_page: Page, site: str) -> None:
    open_dashboard(checked_page, site)
    paste_rows(checked_page, "far")
    checked_page.fill(
        "#csv", "\n".join(f"{ds},{y + 1000!r}" for ds, y in zip(series(30)["ds"], series(30)["y"], strict=True))
    )
    for _ in range(3):
        request_forecast(checked_page)
    row = checked_page.locator("#drift-table tbody tr").first
    expect(row).to_contain_text("shifted: inputs differ from the training data")
