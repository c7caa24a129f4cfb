"""Under load: version swaps, killed and stopped services, a full disk and replicas lose no answer."""

import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from forecaster.database.engine import open_engine
from forecaster.ledger.queries import find_forecast
from forecaster.registry.cache import CHAMPION, ModelIndex, read_indexes, write_index
from tests.conftest import TrainedModels
from tests.faults.conftest import Load, RunningService, count, running
from tests.service.conftest import series


def test_answers_during_version_swaps_are_from_the_named_version(
    models: TrainedModels, tmp_path: Path, database_url: str
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    index = read_indexes(cache)["sine"]
    window = np.array([series()["y"]])
    expected = {version: models.predictor(version).predict_arrays(window)[0].tolist() for version in (1, 2)}
    with running(cache, database_url) as service, Load(service).running() as load:
        for flip in range(count(8, 50)):
            write_index(cache, "sine", ModelIndex({CHAMPION: 1 + (flip + 1) % 2}, index.runs))
            time.sleep(0.7)
    assert load.failures == []
    assert {status for status, _ in load.answers} == {200}
    for _, answer in load.answers:
        assert answer["forecasts"][0]["mean"] == pytest.approx(expected[answer["model"]["version"]], rel=1e-12)
    assert {answer["model"]["version"] for _, answer in load.answers} == {1, 2}


def test_killed_service_loses_no_answered_forecast(models: TrainedModels, database_url: str) -> None:
    chance = random.Random(5)
    answered: list[str] = []
    for _ in range(count(3, 50)):
        with running(models.cache, database_url) as service, Load(service).running() as load:
            time.sleep(chance.uniform(0.1, 1.5))
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        answered += [answer["forecasts"][0]["forecast_id"] for status, answer in load.answers if status == 200]
    assert len(answered) > 10 * count(3, 50)
    engine = open_engine(database_url)
    assert [forecast_id for forecast_id in answered if find_forecast(engine, forecast_id) is None] == []
    engine.dispose()


def test_sigterm_ends_readiness_before_listening(models: TrainedModels, database_url: str) -> None:
    with running(models.cache, database_url, DRAIN_SECONDS=1.5) as service:
        with Load(service).running() as load:
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            status, body = service.request("GET", "/health/ready")
            assert (status, body["status"]) == (503, "stopping")
            # requests are still served until the load balancer notices
            assert service.forecast()[0] == 200
            n_failures = len(load.failures)
        assert n_failures == 0
        assert {status for status, _ in load.answers} == {200}
        # the exit status reports the signal, as supervisors expect
        assert service.process.wait(timeout=30) == -signal.SIGTERM


def test_full_disk_fails_forecasts_until_there_is_space(models: TrainedModels, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    database_url = f"sqlite:///{tmp_path}/service.db"
    with running(models.cache, database_url) as service:
        assert service.forecast()[0] == 200
        # files of the service cannot grow any more
        size = max(file.stat().st_size for file in tmp_path.glob("service.db*"))
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
        statuses = [service.forecast()[0] for _ in range(5)]
        assert 503 in statuses
        assert service.request("GET", "/health/live")[0] == 200
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, before)
        deadline = time.monotonic() + 30
        while service.forecast()[0] != 200:
            assert time.monotonic() < deadline
        status, answer = service.forecast()
        assert status == 200
        assert service.request("GET", f"/v1/forecasts/{answer['forecasts'][0]['forecast_id']}")[0] == 200


def test_replicas_share_one_ledger(models: TrainedModels, postgres: str) -> None:
    from tests.postgres import fresh_database

    database_url = fresh_database(postgres)
    with running(models.cache, database_url) as first, running(models.cache, database_url) as second:
        with Load(first).running(2) as first_load, Load(second).running(2) as second_load:
            time.sleep(2)
        for load, other in ((first_load, second), (second_load, first)):
            assert load.failures == []
            _, answer = load.answers[-1]
            assert other.request("GET", f"/v1/forecasts/{answer['forecasts'][0]['forecast_id']}")[0] == 200
        assert _forecast_with_key(first) == _forecast_with_key(second)


def _forecast_with_key(service: RunningService) -> str:
    """Forecast with a fixed idempotency key; return the id of the forecast."""
    from tests.service.conftest import forecast_request

    status, answer = service.request("POST", "/v1/forecasts", forecast_request(), **{"Idempotency-Key": "one"})
    assert status == 200
    return str(answer["forecasts"][0]["forecast_id"])
