"""What the dashboard shows before anything is requested: the newest forecast that was served, else the example."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from forecaster.domain.manifest import MANIFEST
from forecaster.registry.bundle import identity
from forecaster.registry.cache import mark_passed
from service.settings import Settings
from tests.registry.bundle_faults import edit
from tests.service.conftest import series
from tests.service.site import BARS, serving
from tests.service.test_dashboard import ask, paste, post, traces, visit


@pytest.fixture
def fresh(furnished: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """The address of a service that has not been used yet."""
    with serving(Settings(**furnished | {"database_url": f"sqlite:///{tmp_path}/ledger.db"})) as url:
        yield url


def get(site: str, path: str) -> Any:
    with urllib.request.urlopen(f"{site}{path}") as answer:
        return json.load(answer)


def test_a_fresh_service_shows_held_out_data_with_its_actuals(page: Page, fresh: str) -> None:
    visit(page, fresh)
    example = get(fresh, "/v1/models/sine/versions/1/example")
    drawn = traces(page, "forecast-chart", ("History", "Forecast", "Actuals", "80 % interval", "95 % interval"))
    past, forecast = example["series"], example["forecast"]
    assert (drawn["History"]["x"], drawn["History"]["y"]) == (past["ds"], past["y"])
    assert drawn["Forecast"]["x"] == [forecast["cutoff"], *forecast["ds"]]
    assert drawn["Forecast"]["y"] == [past["y"][-1], *forecast["mean"]]
    assert drawn["Actuals"]["y"] == [past["y"][-1], *example["actual"]]
    expect(page.locator("#result-title")).to_have_text(f"Example: {past['unique_id']}")
    expect(page.locator("#result-by")).to_contain_text("had not seen these rows. The served weights were fitted")
    expect(page.locator("#evidence")).to_contain_text("smaller than that of the last value")
    expect(page.locator("#forecast-table thead")).to_contain_text("Actual")
    # to look is no request
    assert get(fresh, "/v1/forecasts?model=sine") == {"forecasts": []}


def test_the_form_is_ready_to_request_a_forecast_of_the_example(page: Page, fresh: str) -> None:
    visit(page, fresh)
    expect(page.locator("#csv")).to_have_value(lines(get(fresh, "/v1/models/sine/versions/1/example")))
    assert ask(page)["forecasts"][0]["unique_id"] == "example"


def test_an_example_of_a_model_without_skill_says_so(page: Page, fresh: str) -> None:
    visit(page, fresh, "walk")
    expect(page.locator("#result-title")).to_contain_text("Example")
    expect(page.locator("#warnings .strong")).to_contain_text("No demonstrated skill")


def test_the_served_forecast_of_an_example_is_shown_beside_its_actuals_also_after_a_reload(
    page: Page, fresh: str
) -> None:
    visit(page, fresh)
    page.check("#from-text")
    page.click("#example")
    example = get(fresh, "/v1/models/sine/versions/1/example")
    expect(page.locator("#csv")).to_have_value(lines(example))
    (one,) = ask(page)["forecasts"]
    expect(page.locator("#result-title")).to_have_text("example")
    for is_reloaded in (False, True):
        if is_reloaded:
            page.reload()
            page.select_option("#model", "sine")
            expect(page.locator("#result-by")).to_contain_text("Served ")
        drawn = traces(page, "forecast-chart", ("History", "Forecast", "Actuals"))
        assert drawn["Forecast"]["y"][1:] == one["mean"]
        assert drawn["Actuals"]["y"][1:] == example["actual"]
        assert drawn["History"]["y"] == example["series"]["y"]


def lines(example: dict[str, Any]) -> str:
    past = example["series"]
    return "\n".join(["ds,y", *(f"{ds},{y}" for ds, y in zip(past["ds"], past["y"], strict=True))])


def test_changed_rows_are_not_shown_beside_the_actuals_of_the_example(page: Page, fresh: str) -> None:
    visit(page, fresh)
    page.check("#from-text")
    page.click("#example")
    expect(page.locator("#csv")).not_to_be_empty()
    paste(page, "mine")
    ask(page)
    drawn = traces(page, "forecast-chart", ("History", "Forecast"))
    assert "Actuals" not in drawn


def test_the_newest_served_forecast_comes_first(page: Page, fresh: str) -> None:
    post(fresh, "/v1/forecasts", {"model": "sine", "series": [series(unique_id="older")], "level": [80]})
    body = {"model": "sine", "series": [series(unique_id="newer")], "level": [80, 95]}
    (one,) = post(fresh, "/v1/forecasts", body)["forecasts"]
    visit(page, fresh)
    expect(page.locator("#result-title")).to_have_text("newer")
    drawn = traces(page, "forecast-chart", ("Forecast", "80 % interval"))
    assert (drawn["Forecast"]["x"], drawn["Forecast"]["y"]) == (one["ds"], one["mean"])
    expect(page.locator("#chart-note")).to_contain_text("not the history")
    expect(page.locator("#name")).to_have_value("newer")
    expect(page.locator("#past-note")).to_contain_text("The only forecast of newer")


def test_the_actuals_of_earlier_forecasts_are_the_history_of_the_newest(page: Page, fresh: str) -> None:
    (one,) = post(fresh, "/v1/forecasts", {"model": "sine", "series": [series(unique_id="a")], "level": [80]})[
        "forecasts"
    ]
    came = [{"unique_id": "a", "ds": ds, "y": number / 10} for number, ds in enumerate(one["ds"])]
    post(fresh, "/v1/actuals", {"actuals": came})
    later = series(30, "a", start="2026-01-01T04:00:00")
    (newest,) = post(fresh, "/v1/forecasts", {"model": "sine", "series": [later], "level": [80]})["forecasts"]
    assert newest["cutoff"] == one["ds"][-1]
    visit(page, fresh)
    drawn = traces(page, "forecast-chart", ("History", "Forecast"))
    assert (drawn["History"]["x"], drawn["History"]["y"]) == (one["ds"], [0.0, 0.1, 0.2, 0.3])
    assert drawn["Forecast"]["y"] == [0.3, *newest["mean"]]


def test_a_stored_series_is_shown_up_to_the_cutoff_of_its_newest_forecast(page: Page, fresh: str) -> None:
    (one,) = post(fresh, "/v1/forecasts", {"model": "walk", "unique_ids": [BARS], "level": [80]})["forecasts"]
    visit(page, fresh, "walk")
    expect(page.locator("#result-title")).to_have_text(BARS)
    expect(page.locator("#from-store")).to_be_checked()
    drawn = traces(page, "forecast-chart", ("Bars", "Forecast"))
    assert f"{drawn['Bars']['x'][-1]}T00:00:00" == one["cutoff"]
    assert drawn["Forecast"]["y"][0] == drawn["Bars"]["close"][-1]


def test_a_choice_made_meanwhile_is_kept(page: Page, fresh: str) -> None:
    post(fresh, "/v1/forecasts", {"model": "sine", "series": [series(unique_id="newest")], "level": [80]})
    page.goto(fresh)
    expect(page.locator("#forecast")).to_be_enabled()
    page.select_option("#model", "walk")
    expect(page.locator("#result-title")).to_contain_text("Example")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    newest = re.compile("model=sine&is_shadow")
    page.route(newest, hold)
    with page.expect_request(newest):
        page.select_option("#model", "sine")
    paste(page, "mine")
    page.locator("#name").blur()
    with page.expect_response(newest) as late:
        held[0].continue_()
    late.value.finished()
    # as long as showing it would have taken
    page.wait_for_timeout(300)
    expect(page.locator("#name")).to_have_value("mine")
    expect(page.locator("#result-title")).not_to_have_text("newest")


def test_a_version_without_an_example_says_so(page: Page, furnished: dict[str, Any], tmp_path: Path) -> None:
    cache = Path(shutil.copytree(furnished["cache_dir"], tmp_path / "cache"))
    edit(MANIFEST, lambda manifest: manifest.pop("example"))(cache / "sine" / "1")
    mark_passed(cache / "sine" / "1", identity(cache / "sine" / "1"))
    changes = {"cache_dir": cache, "bars_dir": tmp_path / "none", "database_url": f"sqlite:///{tmp_path}/l.db"}
    with serving(Settings(**furnished | changes)) as site:
        page.goto(site)
        page.locator("#model option[value=sine]").wait_for(state="attached")
        page.select_option("#model", "sine")
        expect(page.locator("#result-by")).to_contain_text(
            "This version has no example: an earlier release trained it."
        )
        expect(page.locator("#example")).to_be_disabled()
        expect(page.locator("#problems")).to_be_empty()
        paste(page)
        ask(page)
