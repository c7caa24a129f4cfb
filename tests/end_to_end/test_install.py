"""The wheel, installed into empty environments with the extras that a user would choose."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import forecaster
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels, listening

Install = Callable[[str], Path]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Install:
    """Return a function that installs the wheel with extras into a new environment and returns its programs' folder."""

    def install_with(extras: str) -> Path:
        venv.create(tmp_path / "venv", with_pip=True)
        programs = tmp_path / "venv" / "bin"
        run(programs / "python", "-m", "pip", "install", "--quiet", f"forecaster{extras} @ {wheel.as_uri()}")
        return programs

    return install_with


def run(*command: object, cwd: Path | None = None) -> str:
    # the checkout must not stand in for what is installed
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        list(map(str, command)), cwd=cwd or Path("/"), env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def installed(programs: Path) -> set[str]:
    listed = json.loads(run(programs / "python", "-m", "pip", "list", "--format=json"))
    return {package["name"].lower() for package in listed}


def test_wheel_contains_package_data_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "forecaster/py.typed",
        "forecaster/database/migrations/versions/m0001_first_tables.py",
        "service/dashboard/index.html",
        "pipelines/configs/sine.yaml",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/"))]


def test_empty_environment_imports_the_package_and_lists_commands(install: Install, tmp_path: Path) -> None:
    programs = install("")
    assert run(programs / "python", "-c", "import forecaster; print(forecaster.__version__)").strip() == (
        forecaster.__version__
    )
    read_metadata = "import importlib.metadata as m; print(m.version('forecaster'))"
    assert run(programs / "python", "-c", read_metadata).strip() == forecaster.__version__
    shown = run(programs / "forecaster", "--help")
    assert "Models:\n  train " in shown
    assert "  serve " in shown
    finished = subprocess.run([programs / "forecaster", "train"], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "run pip install 'forecaster[train]'" in finished.stderr


def test_client_extra_forecasts_and_installs_nothing_that_trains_or_serves(
    install: Install, models: TrainedModels, tmp_path: Path
) -> None:
    programs = install("[client]")
    heavy = {"tensorflow", "tensorflow-cpu", "keras", "mlflow", "mlflow-skinny", "onnxruntime", "fastapi", "sqlalchemy"}
    assert not heavy & installed(programs)
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{tmp_path}/l.db")
    program = """
import sys
import pandas as pd
from forecaster import Client, errors
history = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=24, freq="h"), "y": range(24)})
with Client(sys.argv[1]) as client:
    print(len(client.forecast(history, model="sine")))
assert issubclass(errors.SeriesError, errors.ForecasterError)
"""
    with listening(create_app(settings)) as url:
        assert run(programs / "python", "-c", program, url).strip() == "4"


def test_serve_extra_serves_without_training_libraries(install: Install, tmp_path: Path) -> None:
    programs = install("[serve]")
    assert not {"tensorflow", "tensorflow-cpu", "keras", "mlflow", "pandas", "matplotlib"} & installed(programs)
    assert "FORECASTER_PORT" in run(programs / "forecaster", "serve", "--help")
    program = """
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import Settings
with TestClient(create_app(Settings(tracking_uri="", database_url="sqlite:///l.db", cache_dir="cache"))) as client:
    print(client.get("/", headers={"Host": "127.0.0.1"}).status_code)
"""
    run(programs / "python", "-m", "pip", "install", "--quiet", "httpx")
    assert run(programs / "python", "-c", program, cwd=tmp_path).strip() == "200"


def test_public_names_are_complete_and_importable() -> None:
    assert forecaster.__all__ == [
        "AsyncClient",
        "Client",
        "Predictor",
        "Retries",
        "TrainConfig",
        "__version__",
        "errors",
        "load_config",
        "load_predictor",
        "train",
    ]
    for name in forecaster.__all__:
        assert getattr(forecaster, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = forecaster.nothing
