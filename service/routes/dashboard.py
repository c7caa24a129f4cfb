"""The pages: the dashboard at `/` and the API's documentation at `/docs`, with their scripts and style sheets.

The scripts of Plotly and Swagger UI come from installed packages, which are located without importing them.
"""

import os
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.dependencies import ModelStoreDep
from service.problems import responses
from service.responses import DashboardSettings

# each package with its folder of scripts
PACKAGES: list[str | tuple[str, str]] = [("plotly", "package_data"), ("fastapi_standalone_docs", "static/swagger")]
FOLDER = Path(__file__).parents[1] / "dashboard"
# inline styles are allowed because Plotly and Swagger UI use them; everything else must come from this service
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # browsers revalidate each file, which costs an ETag comparison instead of a download
    "Cache-Control": "no-cache",
}

# public: the pages contain no data, and request a key if the service requires one
page = APIRouter()
router = APIRouter(tags=["dashboard"])


class Files(StaticFiles):
    """The files of the pages, including those from the packages of Plotly and Swagger UI."""

    def __init__(self) -> None:
        """Locate the folders without importing the packages."""
        super().__init__(directory=FOLDER, packages=PACKAGES)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304 if the client's copy is current, with the headers of the pages."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


FILES = Files()


@page.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def read_page(request: Request) -> Response:
    """Return the dashboard."""
    return _page("index.html", request)


@page.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def read_docs(request: Request) -> Response:
    """Return the interactive documentation of the API."""
    return _page("docs.html", request)


def _page(name: str, request: Request) -> Response:
    file = FOLDER / name
    return FILES.file_response(file, file.stat(), request.scope)


@router.get("/v1/dashboard-settings", responses=responses())
async def read_dashboard_settings(model_store: ModelStoreDep) -> DashboardSettings:
    """Return the settings that the dashboard needs."""
    return DashboardSettings(mlflow_url=model_store.settings.mlflow_url)
