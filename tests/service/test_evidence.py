"""Evidence: realised skill and input drift request a retraining."""

import time
from pathlib import Path

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from forecaster.database.engine import transaction
from forecaster.database.tables import JOBS
from forecaster.evaluation.drift import Drift
from forecaster.ledger.skill import GroupSkill
from service import housekeeping
from service.app import create_app
from service.housekeeping import retraining_reasons
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, series, wait_until_ready

GOOD = GroupSkill(None, 500, 1.0, 0.9, 0.0, {"80": 0.81, "95": 0.94}, {"80": 500, "95": 500})


@pytest.mark.parametrize(
    ("realised", "drifts", "reasons"),
    [
        (GOOD, [("values", 500, Drift(0.2, 0.1))], []),
        (None, [], []),
        (GroupSkill(None, 500, 1.0, 1.1, 0.0, {}, {}), [], ["realised relative_mae 1.1, at most 1.02 allowed"]),
        (GroupSkill(None, 199, 1.0, 1.1, 0.0, {}, {}), [], []),
        (
            GroupSkill(None, 500, 1.0, None, 0.0, {"80": 0.65}, {"80": 500}),
            [],
            ["the 80 % interval covered 65.0% of the actuals, at most 10% off allowed"],
        ),
        # only one scored step of long roll-outs has an interval
        (GroupSkill(None, 500, 1.0, None, 0.0, {"80": 0.0}, {"80": 1}), [], []),
        (GOOD, [("changes", 2500, Drift(0.3, 0.1))], ["input changes drifted: PSI 0.3, at most 0.25 allowed"]),
        (GOOD, [("changes", 100, Drift(0.3, 0.1))], []),
    ],
)
def test_retraining_reasons(
    realised: GroupSkill | None, drifts: list[tuple[str, int, Drift]], reasons: list[str]
) -> None:
    assert retraining_reasons(realised, drifts, Settings()) == reasons


def test_drifted_inputs_request_one_retraining(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.05)
    settings = Settings(
        cache_dir=models.cache, tracking_uri="", database_url=f"sqlite:///{tmp_path}/l.db", evidence_inputs=150
    )
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)

        def drift() -> dict[str, float]:
            versions = client.get("/v1/drift", params={"model": "sine"}).json()["versions"]
            return {name: drift["psi"] for version in versions for name, drift in version["drift"].items()}

        def jobs() -> list[str]:
            with transaction(app.state.forecast_service.engine) as connection:
                return list(connection.execute(select(JOBS.c.reason)).scalars())

        training_data = models.config.data.load()["y"].tolist()
        for start in range(200):
            window = series(24) | {"y": training_data[start : start + 24]}
            assert client.post("/v1/forecasts", json=forecast_request(series=[window])).status_code == 200
        assert max(drift().values()) < 0.25
        time.sleep(0.3)
        assert jobs() == []
        for start in range(200):
            shifted = series(24) | {"y": [value + 40 for value in training_data[start : start + 24]]}
            assert client.post("/v1/forecasts", json=forecast_request(series=[shifted])).status_code == 200
        assert drift()["values"] > 1
        deadline = time.monotonic() + 20
        while not jobs():
            assert time.monotonic() < deadline
        time.sleep(0.5)
        (reason,) = jobs()
        assert reason.startswith("version 1: ")
        assert "input values drifted: PSI" in reason
        text = client.get("/metrics").text
        assert 'forecaster_retrainings_asked_total{model="sine"} 1.0' in text
        assert 'forecaster_input_drift_psi{model="sine",version="1",what="values"}' in text
