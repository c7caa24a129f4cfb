"""The dashboard's accessibility (keyboard, screen reader, contrast, small screens) and its content policy."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from starlette.testclient import TestClient

from service.routes.dashboard import FOLDER
from tests.service.conftest import series
from tests.service.site import BARS
from tests.service.test_dashboard import post

# the contrast of each text with its background. Source: WCAG 2.2, relative luminance and 1.4.3
CONTRASTS = """() => {
  const parse = (colour) => {
    const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], alpha: a ?? 1 };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(one).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("noscript, script, option, :disabled")) continue;
    const style = getComputedStyle(element);
    const [one, other] = [parse(element instanceof SVGElement ? style.fill : style.color).rgb, behind(element)]
      .map(luminance)
      .sort((a, b) => b - a);
    found.push([text.slice(0, 40), (one + 0.05) / (other + 0.05)]);
  }
  return found;
}"""
FOCUSED = """() => {
  const one = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  return { id: one.id, isSeen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
}"""


def fill_dashboard(page: Page, site: str) -> None:
    """Show a forecast with a warning, past forecasts, and a problem."""
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    page.select_option("#model", "walk")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
    page.check("#from-store")
    page.select_option("#stored", BARS)
    page.click("#forecast")
    expect(page.locator("#forecast-table table")).to_be_visible()
    expect(page.locator("#past-table table")).to_be_visible()
    page.wait_for_function("() => document.querySelectorAll('#forecast-chart .legendtext').length > 2")
    page.check("#from-text")
    page.click("#forecast")
    expect(page.locator("#problems p")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_table_is_wider_than_the_page(browser: Browser, site: str, scheme: Any) -> None:
    body = {"model": "sine", "series": [series(unique_id="wide")], "level": [80, 95]}
    (served,) = post(site, "/v1/forecasts", body)["forecasts"]
    post(site, "/v1/actuals", {"actuals": [{"unique_id": "wide", "ds": ds, "y": 1e5} for ds in served["ds"]]})
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.route("**/v1/models", _widen)
        page.goto(site)
        expect(page.locator("#forecast")).to_be_enabled()
        page.select_option("#model", "sine")
        expect(page.locator("#past-table caption")).to_contain_text("wide")
        for table in ("#forecast-table", "#realised-tables", "#versions-table", "#drift-table"):
            expect(page.locator(f"{table} table").first).to_be_attached()
        page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
        widths = page.locator(".scroll").evaluate_all(
            "(all) => all.map((one) => [one.getAttribute('aria-label'), one.scrollWidth, one.clientWidth])"
        )
    assert len(widths) == 7
    assert [(name, needs, has) for name, needs, has in widths if needs > has] == []


def _widen(route: Route) -> None:
    """Answer with versions whose texts are as long as possible."""
    answer = route.fetch()
    content = answer.json()
    for model in content["models"]:
        model["aliases"] = dict.fromkeys(("champion", "challenger", "previous"), model["aliases"]["champion"])
        for version in model["versions"].values():
            version["cell"], version["topology"] = "simple_rnn", "many_to_many"
            version["trained_until"] = "2026-01-01T12:34:56"
            version["skill"]["p_value"] = 0.0123
    route.fulfill(response=answer, json=content)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser: Browser, site: str, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        fill_dashboard(page, site)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(14, 19, 26)") == (scheme == "dark")
        found = page.evaluate(CONTRASTS)
    texts = {text for text, _ in found}
    assert {"No demonstrated skill", "Forecast", "champion"} <= texts
    assert len(found) > 100
    assert [(text, contrast) for text, contrast in found if contrast < 4.5] == []


def test_charts_follow_the_colour_scheme(page: Page, site: str) -> None:
    fill_dashboard(page, site)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.getElementById('forecast-chart').layout.paper_bgcolor === '#171e27'")


def tab_to(page: Page, name: str) -> list[str]:
    """Press Tab until the element with the id `name` has the focus; return the ids of all elements on the way."""
    passed = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        assert focused["isSeen"], focused
        passed.append(focused["id"])
        if focused["id"] == name:
            return passed
    raise AssertionError(f"{name} is not reached: {passed}")


def test_forecast_can_be_requested_with_the_keyboard(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.locator("#forecast")).to_be_enabled()
    tab_to(page, "model")
    page.keyboard.type("w")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
    assert tab_to(page, "from-store") == ["version", "from-store"]
    page.keyboard.press("ArrowRight")
    assert tab_to(page, "example") == ["name", "csv", "example"]
    page.keyboard.press("Space")
    expect(page.locator("#csv")).not_to_be_empty()
    assert tab_to(page, "forecast") == ["horizon", "forecast"]
    page.keyboard.press("Enter")
    expect(page.locator("#result-title")).to_have_text("example")
    expect(page.locator("#forecast-table tbody tr")).to_have_count(4)
    # scrollable tables can have the focus too
    assert tab_to(page, "shown") == ["shown"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "The forecast, step by step"


def test_page_has_landmarks_labels_and_captions(page: Page, site: str) -> None:
    fill_dashboard(page, site)
    unnamed = "(all) => all.filter((one) => !one.labels.length).map((one) => one.id)"
    assert page.locator("select, input, textarea").evaluate_all(unnamed) == []
    for landmark in ("banner", "main", "navigation", "form"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    for region in (BARS, "Past forecasts and actuals", "Realised skill", "Versions"):
        expect(page.get_by_role("region", name=region, exact=True)).to_have_count(1)
    assert page.locator("[tabindex]").evaluate_all("(all) => all.every((one) => one.tabIndex <= 0)")
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    chart = page.locator("#forecast-chart")
    assert "4 steps of forecast" in (chart.get_attribute("aria-label") or "")
    expect(page.get_by_role("status")).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


def test_page_fits_a_phone(browser: Browser, site: str) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}) as context:
        page = context.new_page()
        fill_dashboard(page, site)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = "(all) => all.filter((one) => one.checkVisibility() && one.offsetHeight < 24).map((one) => one.id)"
        assert page.locator("button, select, textarea").evaluate_all(small) == []


def test_content_policy_allows_only_the_services_own_files(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["Content-Type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.head("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/dashboard/plotly.min.js", "/dashboard/main.js"])
def test_unchanged_file_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.status_code == 200
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "nothing.js", "%00", "/etc/passwd"])
def test_files_outside_the_dashboards_folder_are_not_served(client: TestClient, path: str) -> None:
    assert client.get(f"/dashboard/{path}").status_code == 404


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.js")), ids=lambda file: file.name)
def test_no_module_creates_html_from_text(file: Path) -> None:
    text = file.read_text()
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in text
    ]
