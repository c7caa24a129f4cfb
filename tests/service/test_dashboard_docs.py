"""The API's page at /docs, without the internet and under the policy of the other pages."""

import json
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect
from starlette.testclient import TestClient

from service.routes.dashboard import POLICY


@pytest.fixture
def alone(page: Page, site: str) -> Iterator[Page]:
    """A page whose browser reaches this service alone, and complains of nothing."""
    elsewhere: list[str] = []
    complaints: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith((f"{site}/", "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert (elsewhere, complaints) == ([], [])


def test_each_operation_is_shown_and_can_be_tried(alone: Page, site: str) -> None:
    with urllib.request.urlopen(f"{site}/openapi.json") as answer:
        described = json.load(answer)
    assert described["openapi"].startswith("3.1")
    operations = [f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods]
    alone.goto(f"{site}/docs")
    expect(alone.locator(".opblock")).to_have_count(len(operations))
    shown = alone.locator(".opblock-summary").evaluate_all(
        "(all) => all.map((one) => `${one.querySelector('.opblock-summary-method').textContent} "
        "${one.querySelector('.opblock-summary-path').dataset.path}`)"
    )
    assert sorted(shown) == sorted(operations)
    models = alone.locator(".opblock", has=alone.locator("[data-path='/v1/models']"))
    models.locator(".opblock-summary-control").click()
    models.get_by_role("button", name="Try it out").click()
    models.get_by_role("button", name="Execute").click()
    expect(models.locator(".live-responses-table td.response-col_status:not(.col_header)")).to_contain_text("200")
    # a schema of a body, which Swagger UI draws otherwise than it draws 3.0's
    forecasts = alone.locator(".opblock-post", has=alone.locator("[data-path='/v1/forecasts']"))
    forecasts.locator(".opblock-summary-control").click()
    expect(forecasts.locator(".opblock-section-request-body")).to_contain_text("unique_id")


def test_the_key_of_the_tab_is_sent_with_a_request(alone: Page, site: str) -> None:
    alone.goto(f"{site}/docs")
    alone.evaluate("sessionStorage.setItem('forecaster-key', 'fc_key')")
    models = alone.locator(".opblock", has=alone.locator("[data-path='/v1/models']"))
    models.locator(".opblock-summary-control").click()
    models.get_by_role("button", name="Try it out").click()
    with alone.expect_request("**/v1/models") as asked:
        models.get_by_role("button", name="Execute").click()
    assert asked.value.headers["authorization"] == "Bearer fc_key"


@pytest.mark.parametrize("path", ["/docs", "/dashboard/swagger-ui-bundle.js", "/dashboard/docs.js"])
def test_its_files_have_the_policy_of_the_pages(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY


def test_there_is_no_second_page_for_the_api(client: TestClient) -> None:
    answer = client.get("/redoc")
    assert answer.status_code == 404
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
