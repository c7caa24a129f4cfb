"""Served models: listing, promotion, and caches that are broken or untried."""

import json
import re
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from forecaster.registry.cache import ModelIndex, bundle_folder, read_indexes, write_index
from forecaster.registry.trial import Limits, try_bundles
from service import catalog
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, start_module
from tests.service.conftest import forecast_request
from tests.stack.processes import processes_with


@contextmanager
def serving(cache: Path, **settings: Any) -> Iterator[TestClient]:
    app = create_app(Settings(cache_dir=cache, **{"tracking_uri": ""} | settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def answered_by(client: TestClient) -> int | None:
    answer = client.post("/v1/forecasts", json=forecast_request())
    return int(answer.json()["model"]["version"]) if answer.status_code == 200 else None


def test_models_are_listed_with_their_manifests(client: TestClient, models: TrainedModels) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert model == client.get("/v1/models/sine").json()
    assert model["aliases"]["champion"] == 1
    for registered in models.versions:
        version = model["versions"][str(registered.version)]
        assert version["run_id"] == registered.run_id
        assert version["recipe_metrics"] == registered.metrics
        assert (version["input_size"], version["horizon"], version["freq"]) == (24, 4, "h")
        assert "sha256" not in version
        assert 0 < version["intervals"]["n_effective"] <= version["intervals"]["n_windows"]
    assert client.get("/v1/models/nobody").status_code == 404


def test_health_reports_served_versions(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json()["models"]["sine"]["champion"] == 1


def test_openapi_examples_match_the_service(client: TestClient, models: TrainedModels) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/v1/forecasts", "/v1/models", "/v1/models/{name}", "/health/live", "/health/ready"} <= set(schema["paths"])
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert references <= set(schema["components"]["schemas"])
    (example,) = schema["components"]["schemas"]["ForecastRequest"]["examples"]
    # the example has more rows than the model `sine` of the tests needs
    answer = client.post("/v1/forecasts", json=example)
    assert answer.status_code == 200, answer.json()
    (response,) = schema["components"]["schemas"]["ForecastResponse"]["examples"]
    real = client.post("/v1/forecasts", json=forecast_request(level=[80, 95])).json()
    assert set(response) == set(real)
    assert set(response["forecasts"][0]) == set(real["forecasts"][0])
    assert set(response["skill"]) == set(real["skill"])
    assert client.get("/docs").status_code == 200


def test_service_without_models_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "cache") as client:
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
        assert client.get("/health/live").status_code == 200
        assert client.post("/v1/forecasts", json=forecast_request()).status_code == 404


def test_service_picks_up_a_promotion(models: TrainedModels, tmp_path: Path) -> None:
    with serving(tmp_path / "cache", tracking_uri=models.config.tracking.uri, refresh_seconds=0.5) as client:
        wait_until(lambda: answered_by(client) == 1)
        models.store.promote("sine", 2)
        try:
            wait_until(lambda: answered_by(client) == 2)
            assert client.post("/v1/forecasts", json=forecast_request(alias="previous")).json()["model"]["version"] == 1
        finally:
            models.store.promote("sine", 1)


def test_broken_champion_is_reported_and_the_previous_one_stays(models: TrainedModels, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    with serving(cache) as client:
        wait_until(lambda: answered_by(client) == 1)
        shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", 3))
        (bundle_folder(cache, "sine", 3) / "model.onnx").write_bytes(b"poison")
        runs = read_indexes(cache)["sine"].runs
        write_index(cache, "sine", ModelIndex({"champion": 3}, {**runs, 3: "0" * 32}))
        wait_until(lambda: client.get("/health/ready").json()["last_problem"] is not None)
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert "model 'sine' version 3: " in ready.json()["last_problem"]
        assert answered_by(client) == 1


@pytest.mark.parametrize("index", ["[]", "{", '{"aliases": {"champion": 1}, "runs": [1]}'])
def test_broken_index_keeps_the_served_versions_until_it_is_repaired(
    models: TrainedModels, tmp_path: Path, index: str
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    good = (cache / "sine" / "index.json").read_text()
    with serving(cache) as client:
        wait_until(lambda: answered_by(client) == 1)
        (cache / "sine" / "index.json").write_text(index)
        wait_until(lambda: client.get("/health/ready").json()["last_problem"] is not None)
        assert answered_by(client) == 1
        (cache / "sine" / "index.json").write_text(good.replace('"champion": 1', '"champion": 2'))
        wait_until(lambda: answered_by(client) == 2)
        assert client.get("/health/ready").json()["last_problem"] is None


@contextmanager
def served_process(cwd: Path, **settings: str) -> Iterator[str]:
    process = start_module("service", cwd=cwd, FORECASTER_PORT="0", **settings)
    assert process.stderr is not None
    try:
        found = re.search(r"serving on (http://\S+)", process.stderr.readline())
        assert found
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    # after a clean shutdown it exits by the signal, as supervisors expect
    assert process.returncode == -signal.SIGTERM


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except urllib.error.URLError:
        return 0, None


def test_process_arguments_do_not_show_the_password_of_mlflow(models: TrainedModels, tmp_path: Path) -> None:
    # no database listens there; the test looks only at the arguments of processes
    uri = "postgresql+pg8000://mlflow:a-password@127.0.0.1:1/mlflow"
    lines: list[str] = []

    def has_child() -> bool:
        lines[:] = [" ".join(process.cmdline()) for process in processes_with("FORECASTER_TRACKING_URI", uri)]
        return any("forecaster.registry.sync" in line for line in lines)

    with served_process(tmp_path, FORECASTER_TRACKING_URI=uri, FORECASTER_CACHE_DIR=str(models.cache)):
        wait_until(has_child)
    assert len(lines) == 2
    assert not [line for line in lines if "a-password" in line]


def test_service_serves_from_its_cache_without_mlflow(models: TrainedModels, tmp_path: Path) -> None:
    settings = {"FORECASTER_TRACKING_URI": "http://127.0.0.1:1", "FORECASTER_CACHE_DIR": str(models.cache)}
    home = tmp_path / "home"
    home.mkdir()
    settings |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    with served_process(tmp_path, **settings) as url:
        wait_until(lambda: _get(f"{url}/health/ready")[0] == 200)
        wait_until(lambda: "sync: " in str(_get(f"{url}/health/ready")[1]["last_problem"]))
        request = urllib.request.Request(f"{url}/v1/forecasts", json.dumps(forecast_request()).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["model"]["version"] == 1
    # no library has written to the home folder, such as an id for telemetry
    assert not list(home.rglob("*"))


def _untried_cache(models: TrainedModels, folder: Path) -> Path:
    """Return a copy of the cache without marks of trials, as older releases wrote it."""
    cache = Path(shutil.copytree(models.cache, folder / "cache"))
    for mark in cache.glob("*/.tried-*"):
        mark.unlink()
    return cache


def test_untried_cache_is_tried_with_the_champion_first(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, rounds = _untried_cache(models, tmp_path), []

    def tried(folders: list[Path], limits: Limits) -> list[str | None]:
        rounds.append([folder.name for folder in folders])
        return try_bundles(folders, limits)

    monkeypatch.setattr(catalog, "try_bundles", tried)
    with serving(cache) as client:
        wait_until(lambda: answered_by(client) == 1)
        wait_until(lambda: client.get("/v1/models/sine").json()["versions"].keys() == {"1", "2"})
    assert rounds == [["1"], ["2"]]
    assert [mark.name for mark in sorted(cache.glob("sine/.tried-*"))] == [".tried-1", ".tried-2"]


def test_failed_trial_of_a_cached_bundle_is_repeated(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only the first trial fails
    answers = iter(["its trial ended with SIGKILL"])
    monkeypatch.setattr(catalog, "TRIED_AGAIN_AFTER_SECONDS", 1)
    monkeypatch.setattr(catalog, "try_bundles", lambda folders, _: [next(answers, None) for _ in folders])
    with serving(_untried_cache(models, tmp_path)) as client:
        wait_until(lambda: answered_by(client) == 1)
