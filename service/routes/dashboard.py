"""The pages: the dashboard at `/`, the API's at `/docs`, their files, and the scripts of Plotly and Swagger UI.

The scripts come from installed packages, which are found without being imported.
"""

import os
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.dependencies import ModelStoreDep
from service.problems import responses
from service.schemas import DashboardSettings

# name, and the folder in it
PACKAGES: list[str | tuple[str, str]] = [("plotly", "package_data"), ("fastapi_standalone_docs", "static/swagger")]
FOLDER = Path(__file__).parents[1] / "dashboard"
# Plotly and Swagger UI size their parts by style attributes; scripts, and all else, are this service's files alone
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # asked each time whether it has changed, which costs an ETag and not the file
    "Cache-Control": "no-cache",
}

# the pages themselves have no data, and ask for a key where one is needed
page = APIRouter()
router = APIRouter(tags=["dashboard"])


class Files(StaticFiles):
    """The files of the pages, and those that Plotly's package and Swagger UI's bring."""

    def __init__(self) -> None:
        """Find them, without importing Plotly."""
        super().__init__(directory=FOLDER, packages=PACKAGES)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or that the client's copy is still good, under the page's policy."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers.update(HEADERS)
        return answer


FILES = Files()


@page.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def read_page(request: Request) -> Response:
    """Return the dashboard."""
    return _page("index.html", request)


@page.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def read_docs(request: Request) -> Response:
    """Return the page that shows the API and lets it be tried."""
    return _page("docs.html", request)


def _page(name: str, request: Request) -> Response:
    file = FOLDER / name
    return FILES.file_response(file, file.stat(), request.scope)


@router.get("/v1/dashboard-settings", responses=responses())
async def read_dashboard_settings(model_store: ModelStoreDep) -> DashboardSettings:
    """Return what the page must know of this installation."""
    return DashboardSettings(mlflow_url=model_store.settings.mlflow_url)
