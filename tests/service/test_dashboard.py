"""The dashboard in a real browser, on the real service: what it asks, what it shows, what it says."""

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
def quiet(page: Page, site: str) -> Iterator[Page]:
    """A page that must ask this service alone, and have nothing to complain of."""
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    yield page
    assert requests
    assert not [url for url in requests if not url.startswith((f"{site}/", "data:"))]
    assert complaints == []


def visit(page: Page, site: str, model: str = "sine") -> None:
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    page.select_option("#model", model)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")


def paste(page: Page, name: str = "a", length: int = 30) -> None:
    one = series(length)
    page.check("#from-text")
    page.fill("#name", name)
    page.fill("#csv", "\n".join(f"{ds},{y!r}" for ds, y in zip(one["ds"], one["y"], strict=True)))


def ask(page: Page) -> dict[str, Any]:
    """Press Forecast and return what the service answered."""
    with page.expect_response(lambda answer: answer.url.endswith("/v1/forecasts") and answer.status == 200) as answered:
        page.click("#forecast")
    expect(page.locator("#status")).to_contain_text("Forecast of")
    answer: dict[str, Any] = answered.value.json()
    return answer


def post(site: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(f"{site}{path}", json.dumps(body).encode())) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def traces(page: Page, chart: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return a chart's traces by name, once those of `names` are drawn."""
    wanted = "([id, names]) => names.every((name) => document.getElementById(id).data?.some((t) => t.name === name))"
    page.wait_for_function(wanted, arg=[chart, list(names)])
    plain = "(e) => e.data.map(({name, type, x, y, open, close}) => ({name, type, x, y, open, close}))"
    return {trace["name"]: trace for trace in page.locator(f"#{chart}").evaluate(plain)}


def table_of(page: Page, place: str) -> list[list[str]]:
    rows: list[list[str]] = page.locator(f"{place} tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return rows


def test_a_forecast_asked_for_by_clicking_is_shown_as_the_service_answers_it(quiet: Page, site: str) -> None:
    visit(quiet, site)
    quiet.click("#example")
    expect(quiet.locator("#csv")).not_to_be_empty()
    rows = quiet.input_value("#csv").splitlines()[1:]
    assert len(rows) == 24
    answer = ask(quiet)
    (one,) = answer["forecasts"]
    drawn = traces(quiet, "forecast-chart", ("Forecast", "History", "80 % interval", "95 % interval"))
    last = float(rows[-1].split(",")[1])
    assert drawn["Forecast"]["x"] == [one["cutoff"], *one["ds"]]
    assert drawn["Forecast"]["y"] == [last, *one["mean"]]
    for level in (80, 95):
        outline = [last, *one[f"hi-{level}"], *reversed(one[f"lo-{level}"]), last]
        assert drawn[f"{level} % interval"]["y"] == outline
    assert drawn["History"]["y"] == [float(row.split(",")[1]) for row in rows]
    shown = table_of(quiet, "#forecast-table")
    names = ("mean", "lo-80", "hi-80", "lo-95", "hi-95")
    assert [[float(text) for text in row[1:6]] for row in shown] == [
        pytest.approx([one[name][step] for name in names], abs=1e-4) for step in range(4)
    ]
    relative = answer["skill"]["relative_mae"]
    expect(quiet.locator("#evidence")).to_contain_text(f"{relative:.3f}")
    expect(quiet.locator("#evidence")).to_contain_text("smaller than that of the last value")
    expect(quiet.locator("#result-by")).to_contain_text("By sine, version 1 (champion).")
    expect(quiet.locator("#warnings")).to_be_empty()


def test_a_stored_series_is_candles_and_missing_skill_is_said_before_the_chart(quiet: Page, site: str) -> None:
    visit(quiet, site, "walk")
    quiet.select_option("#stored", BARS)
    answer = ask(quiet)
    with urllib.request.urlopen(f"{site}/v1/series/{BARS}") as found:
        stored = json.load(found)
    quiet.select_option("#shown", "all")
    quiet.wait_for_function(f"() => document.getElementById('forecast-chart').data[0].x.length === {N_BARS}")
    candles = traces(quiet, "forecast-chart", ("Forecast",))["Bars"]
    assert candles["type"] == "candlestick"
    assert (candles["x"], candles["close"]) == (stored["ds"], stored["close"])
    # a week-end is no hole in the chart
    closed = quiet.locator("#forecast-chart").evaluate("(e) => e.layout.xaxis.rangebreaks[0].values")
    assert closed[:4] == ["2026-01-10", "2026-01-11", "2026-01-17", "2026-01-18"]
    assert answer["forecasts"][0]["unique_id"] == BARS
    warning = quiet.locator("#warnings .strong")
    expect(warning).to_contain_text("No demonstrated skill")
    above, below = warning.bounding_box(), quiet.locator("#forecast-chart").bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"]


def test_a_baseline_that_answers_is_named(furnished: dict[str, Any], page: Page) -> None:
    with serving(Settings(**furnished, without_skill="baseline")) as site:
        visit(page, site, "walk")
        ask(page)
        expect(page.locator("#result-by")).to_contain_text("By the naive baseline, the last value, in place of walk")
        traces(page, "forecast-chart", ("Baseline’s forecast",))


def test_steps_beyond_the_trained_ones_have_no_band(quiet: Page, site: str) -> None:
    visit(quiet, site)
    paste(quiet)
    quiet.fill("#horizon", "6")
    ask(quiet)
    drawn = traces(quiet, "forecast-chart", ("Forecast",))
    assert len(drawn["Forecast"]["y"]) == 7
    assert len(drawn["80 % interval"]["y"]) == 10
    assert [row[2] for row in table_of(quiet, "#forecast-table")][4:] == ["–", "–"]
    expect(quiet.locator("#warnings")).to_contain_text("later steps are rolled out on the model's own output")


def test_past_forecasts_are_shown_beside_the_actuals(quiet: Page, site: str) -> None:
    body = {"model": "sine", "series": [series(unique_id="past")], "level": [80, 95]}
    (one,) = post(site, "/v1/forecasts", body)["forecasts"]
    came = [(one["mean"][0] + one["hi-95"][0]) / 2, one["mean"][1], one["hi-95"][2] + 1]
    actuals = [{"unique_id": "past", "ds": ds, "y": y} for ds, y in zip(one["ds"], came, strict=False)]
    post(site, "/v1/actuals", {"actuals": actuals})
    visit(quiet, site)
    paste(quiet, "past")
    quiet.locator("#name").blur()
    drawn = traces(quiet, "past-chart", ("Actuals", "Forecasts"))
    assert (drawn["Actuals"]["x"], drawn["Actuals"]["y"]) == (one["ds"][:3], came)
    assert drawn["Forecasts"]["y"] == one["mean"]
    (row,) = table_of(quiet, "#past-table")
    errors = [abs(mean - y) for mean, y in zip(one["mean"], came, strict=False)]
    assert row[3] == "3 of 4"
    assert float(row[4]) == pytest.approx(sum(errors) / 3, rel=5e-3)
    assert row[6] == "2 of 3"
    expect(quiet.locator("#realised-note")).to_contain_text("steps of sine have actuals")
    with urllib.request.urlopen(f"{site}/v1/skill?model=sine&by=step") as found:
        steps = json.load(found)["realised"]
    by_step = table_of(quiet, "#realised-tables > .scroll:nth-child(2)")
    assert [(row[0], row[1], row[2]) for row in by_step] == [
        (str(step["group"]), str(step["n_scores"]), f"{step['relative_mae']:.3f}") for step in steps
    ]
    traces(quiet, "error-chart", ("Relative MAE",))
    traces(quiet, "coverage-chart", ("80 % interval", "95 % interval"))


def test_an_answer_to_an_earlier_question_is_not_shown(page: Page, site: str) -> None:
    held: list[Route] = []
    visit(page, site, "walk")

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
    # as long as showing it would have taken
    page.wait_for_timeout(300)
    expect(page.locator("#result-title")).to_have_text(BARS)
    expect(page.locator("#forecast-table")).to_be_empty()


def test_versions_are_listed_with_their_runs(furnished: dict[str, Any], models: TrainedModels, page: Page) -> None:
    with serving(Settings(**furnished, mlflow_url="http://127.0.0.1:5000/")) as site:
        visit(page, site)
        rows = table_of(page, "#versions-table")
        assert [(row[0], row[1].strip(), row[2]) for row in rows] == [
            ("2", "", "lstm, many-to-many"),
            ("1", "champion", "gru, many-to-one"),
        ]
        link = page.locator("#versions-table a").nth(1)
        expect(link).to_have_attribute("href", f"http://127.0.0.1:5000/#/runs/{models.versions[0].run_id}")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("2026-01-01T00:00:00,1\n2026-01-01T01:00:00,2", "has 2 values, and the model needs 24"),
        ("ds,y\n2026-01-01,one", "Line 2: 'one' is not a value of y; write a number"),
        ("ds,value\n2026-01-01,1", "no column y"),
        ("2026-01-01,\n2026-01-02,1", "Line 2: rows without y come last"),
        ("", "There are no rows"),
    ],
)
def test_what_is_wrong_with_rows_is_said_in_words(page: Page, site: str, rows: str, said: str) -> None:
    visit(page, site)
    page.check("#from-text")
    page.fill("#csv", rows)
    page.click("#forecast")
    expect(page.get_by_role("alert")).to_contain_text(said)
    # and goes when it is put right
    paste(page)
    ask(page)
    expect(page.locator("#problems")).to_be_empty()


def test_a_service_that_is_gone_is_said_in_words(furnished: dict[str, Any], page: Page) -> None:
    with serving(Settings(**furnished)) as site:
        visit(page, site)
        paste(page)
    page.click("#forecast")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")


def test_names_from_outside_are_text(quiet: Page, site: str) -> None:
    visit(quiet, site, "walk")
    quiet.select_option("#stored", HOSTILE)
    ask(quiet)
    expect(quiet.locator("#result-title")).to_have_text(HOSTILE)
    expect(quiet.locator("#past-table caption")).to_contain_text(HOSTILE)
    quiet.select_option("#model", "sine")
    paste(quiet, f"{HOSTILE}<b>")
    ask(quiet)
    expect(quiet.locator("#result-title")).to_have_text(f"{HOSTILE}<b>")
    quiet.fill("#csv", f"{HOSTILE},{HOSTILE}")
    quiet.click("#forecast")
    expect(quiet.get_by_role("alert")).to_contain_text(HOSTILE)
    assert quiet.locator("img[src=x], main b").count() == 0


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(page: Page, site: str) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            problem = {"title": "Unauthorized", "status": 401, "detail": "a key is needed"}
            route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/v1/**", guard)
    page.goto(site)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("An API key is needed")
    page.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("does not accept")
    page.get_by_label("API key", exact=True).fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#forecast")).to_be_enabled()
    paste(page)
    ask(page)
    kept = "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    assert page.evaluate(kept) == [[KEY], [], ""]
    page.click("#forget-key")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("The service needs an API key")


def test_what_a_model_is_asked_with_is_held_beside_its_training_data(quiet: Page, site: str) -> None:
    visit(quiet, site)
    paste(quiet, "far")
    quiet.fill("#csv", "\n".join(f"{ds},{y + 1000!r}" for ds, y in zip(series(30)["ds"], series(30)["y"], strict=True)))
    for _ in range(3):
        ask(quiet)
    row = quiet.locator("#drift-table tbody tr").first
    expect(row).to_contain_text("shifted: inputs differ from the training data")
