"""The dashboard when it is opened: it shows the newest served forecast, or else the version's example."""

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
from tests.service.test_dashboard import open_dashboard, paste_rows, post, request_forecast, traces


@pytest.fixture
def new_site(site_settings: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a service with an empty ledger."""
    with serving(Settings(**site_settings | {"database_url": f"sqlite:///{tmp_path}/ledger.db"})) as url:
        yield url


def get(site: str, path: str) -> Any:
    with urllib.request.urlopen(f"{site}{path}") as answer:
        return json.load(answer)


def test_new_service_shows_the_example_with_its_actuals(page: Page, new_site: str) -> None:
    open_dashboard(page, new_site)
    example = get(new_site, "/v1/models/sine/versions/1/example")
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
    # opening the dashboard requests no forecast
    assert get(new_site, "/v1/forecasts?model=sine") == {"forecasts": []}


def test_form_holds_the_rows_of_the_example(page: Page, new_site: str) -> None:
    open_dashboard(page, new_site)
    expect(page.locator("#csv")).to_have_value(as_rows(get(new_site, "/v1/models/sine/versions/1/example")))
    assert request_forecast(page)["forecasts"][0]["unique_id"] == "example"


def test_example_of_a_model_without_skill_has_a_warning(page: Page, new_site: str) -> None:
    open_dashboard(page, new_site, "walk")
    expect(page.locator("#result-title")).to_contain_text("Example")
    expect(page.locator("#warnings .strong")).to_contain_text("No demonstrated skill")


def test_served_forecast_of_the_example_is_shown_with_its_actuals_also_after_a_reload(
    page: Page, new_site: str
) -> None:
    open_dashboard(page, new_site)
    page.check("#from-text")
    page.click("#example")
    example = get(new_site, "/v1/models/sine/versions/1/example")
    expect(page.locator("#csv")).to_have_value(as_rows(example))
    (served,) = request_forecast(page)["forecasts"]
    expect(page.locator("#result-title")).to_have_text("example")
    for is_reloaded in (False, True):
        if is_reloaded:
            page.reload()
            page.select_option("#model", "sine")
            expect(page.locator("#result-by")).to_contain_text("Served ")
        drawn = traces(page, "forecast-chart", ("History", "Forecast", "Actuals"))
        assert drawn["Forecast"]["y"][1:] == served["mean"]
        assert drawn["Actuals"]["y"][1:] == example["actual"]
        assert drawn["History"]["y"] == example["series"]["y"]


def as_rows(example: dict[str, Any]) -> str:
    """Return the history of an example as the rows in the form."""
    past = example["series"]
    return "\n".join(["ds,y", *(f"{ds},{y}" for ds, y in zip(past["ds"], past["y"], strict=True))])


def test_changed_rows_are_shown_without_the_actuals_of_the_example(page: Page, new_site: str) -> None:
    open_dashboard(page, new_site)
    page.check("#from-text")
    page.click("#example")
    expect(page.locator("#csv")).not_to_be_empty()
    paste_rows(page, "mine")
    request_forecast(page)
    drawn = traces(page, "forecast-chart", ("History", "Forecast"))
    assert "Actuals" not in drawn


def test_newest_served_forecast_is_shown(page: Page, new_site: str) -> None:
    post(new_site, "/v1/forecasts", {"model": "sine", "series": [series(unique_id="older")], "level": [80]})
    body = {"model": "sine", "series": [series(unique_id="newer")], "level": [80, 95]}
    (served,) = post(new_site, "/v1/forecasts", body)["forecasts"]
    open_dashboard(page, new_site)
    expect(page.locator("#result-title")).to_have_text("newer")
    drawn = traces(page, "forecast-chart", ("Forecast", "80 % interval"))
    assert (drawn["Forecast"]["x"], drawn["Forecast"]["y"]) == (served["ds"], served["mean"])
    expect(page.locator("#chart-note")).to_contain_text("not the history")
    expect(page.locator("#name")).to_have_value("newer")
    expect(page.locator("#past-note")).to_contain_text("The only forecast of newer")


def test_actuals_of_earlier_forecasts_are_drawn_as_history(page: Page, new_site: str) -> None:
    request = {"model": "sine", "series": [series(unique_id="a")], "level": [80]}
    (earlier,) = post(new_site, "/v1/forecasts", request)["forecasts"]
    actuals = [{"unique_id": "a", "ds": ds, "y": number / 10} for number, ds in enumerate(earlier["ds"])]
    post(new_site, "/v1/actuals", {"actuals": actuals})
    later = series(30, "a", start="2026-01-01T04:00:00")
    (newest,) = post(new_site, "/v1/forecasts", request | {"series": [later]})["forecasts"]
    assert newest["cutoff"] == earlier["ds"][-1]
    open_dashboard(page, new_site)
    drawn = traces(page, "forecast-chart", ("History", "Forecast"))
    assert (drawn["History"]["x"], drawn["History"]["y"]) == (earlier["ds"], [0.0, 0.1, 0.2, 0.3])
    assert drawn["Forecast"]["y"] == [0.3, *newest["mean"]]


def test_stored_series_is_shown_up_to_the_cutoff_of_its_newest_forecast(page: Page, new_site: str) -> None:
    (served,) = post(new_site, "/v1/forecasts", {"model": "walk", "unique_ids": [BARS], "level": [80]})["forecasts"]
    open_dashboard(page, new_site, "walk")
    expect(page.locator("#result-title")).to_have_text(BARS)
    expect(page.locator("#from-store")).to_be_checked()
    drawn = traces(page, "forecast-chart", ("Bars", "Forecast"))
    assert f"{drawn['Bars']['x'][-1]}T00:00:00" == served["cutoff"]
    assert drawn["Forecast"]["y"][0] == drawn["Bars"]["close"][-1]


def test_late_newest_forecast_does_not_replace_the_users_rows(page: Page, new_site: str) -> None:
    post(new_site, "/v1/forecasts", {"model": "sine", "series": [series(unique_id="newest")], "level": [80]})
    page.goto(new_site)
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
    paste_rows(page, "mine")
    page.locator("#name").blur()
    with page.expect_response(newest) as late:
        held[0].continue_()
    late.value.finished()
    # longer than the page takes to show an answer
    page.wait_for_timeout(300)
    expect(page.locator("#name")).to_have_value("mine")
    expect(page.locator("#result-title")).not_to_have_text("newest")


def test_version_without_an_example_is_explained(page: Page, site_settings: dict[str, Any], tmp_path: Path) -> None:
    cache = Path(shutil.copytree(site_settings["cache_dir"], tmp_path / "cache"))
    edit(MANIFEST, lambda manifest: manifest.pop("example"))(cache / "sine" / "1")
    mark_passed(cache / "sine" / "1", identity(cache / "sine" / "1"))
    changes = {"cache_dir": cache, "bars_dir": tmp_path / "none", "database_url": f"sqlite:///{tmp_path}/l.db"}
    with serving(Settings(**site_settings | changes)) as site:
        page.goto(site)
        page.locator("#model option[value=sine]").wait_for(state="attached")
        page.select_option("#model", "sine")
        expect(page.locator("#result-by")).to_contain_text(
            "This version has no example: an earlier release trained it."
        )
        expect(page.locator("#example")).to_be_disabled()
        expect(page.locator("#problems")).to_be_empty()
        paste_rows(page)
        request_forecast(page)
