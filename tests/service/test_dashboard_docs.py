"""The API's documentation at /docs: it works without the internet, under the content policy of the dashboard."""

import json
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect
from starlette.testclient import TestClient

from service.routes.dashboard import POLICY


@pytest.fixture
def offline_page(page: Page, site: str) -> Iterator[Page]:
    """Yield a page that can reach this service only; it must not try other addresses or log warnings or errors."""
    blocked: list[str] = []
    problems: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith((f"{site}/", "data:")):
            route.continue_()
        else:
            blocked.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    page.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert (blocked, problems) == ([], [])


def test_every_operation_is_shown_and_can_be_tried(offline_page: Page, site: str) -> None:
    with urllib.request.urlopen(f"{site}/openapi.json") as answer:
        described = json.load(answer)
    assert described["openapi"].startswith("3.1")
    operations = [f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods]
    offline_page.goto(f"{site}/docs")
    expect(offline_page.locator(".opblock")).to_have_count(len(operations))
    shown = offline_page.locator(".opblock-summary").evaluate_all(
        "(all) => all.map((one) => `${one.querySelector('.opblock-summary-method').textContent} "
        "${one.querySelector('.opblock-summary-path').dataset.path}`)"
    )
    assert sorted(shown) == sorted(operations)
    models = offline_page.locator(".opblock", has=offline_page.locator("[data-path='/v1/models']"))
    models.locator(".opblock-summary-control").click()
    models.get_by_role("button", name="Try it out").click()
    models.get_by_role("button", name="Execute").click()
    expect(models.locator(".live-responses-table td.response-col_status:not(.col_header)")).to_contain_text("200")
    # the schema of a body in OpenAPI 3.1, which Swagger UI renders in another way than in 3.0
    forecasts = offline_page.locator(".opblock-post", has=offline_page.locator("[data-path='/v1/forecasts']"))
    forecasts.locator(".opblock-summary-control").click()
    expect(forecasts.locator(".opblock-section-request-body")).to_contain_text("unique_id")


def test_requests_send_the_key_of_the_tab(offline_page: Page, site: str) -> None:
    offline_page.goto(f"{site}/docs")
    offline_page.evaluate("sessionStorage.setItem('forecaster-key', 'fc_key')")
    models = offline_page.locator(".opblock", has=offline_page.locator("[data-path='/v1/models']"))
    models.locator(".opblock-summary-control").click()
    models.get_by_role("button", name="Try it out").click()
    with offline_page.expect_request("**/v1/models") as request:
        models.get_by_role("button", name="Execute").click()
    assert request.value.headers["authorization"] == "Bearer fc_key"


@pytest.mark.parametrize("path", ["/docs", "/dashboard/swagger-ui-bundle.js", "/dashboard/docs.js"])
def test_documentation_has_the_content_policy_of_the_dashboard(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY


def test_redoc_is_not_served(client: TestClient) -> None:
    answer = client.get("/redoc")
    assert answer.status_code == 404
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
