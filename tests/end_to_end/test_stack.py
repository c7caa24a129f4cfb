"""The whole stack without Docker: Postgres, MLflow with accounts, the scheduler, the service.

`make stack-proof` runs the same code with more steps.
"""

import base64
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import build, build_replacement, size_mb
from tests.stack.load_generator import send
from tests.stack.local import plan
from tests.stack.paths import MARK
from tests.stack.postgres import PROGRAMS
from tests.stack.processes import processes_with
from tests.stack.proof import StackProof, prove

pytestmark = pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
SOAK = os.environ.get("FORECASTER_SOAK") == "1"


@pytest.fixture
def state() -> Iterator[Path]:
    # Postgres runs as another account, which cannot enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="a stack ") as folder:
        yield Path(folder)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The service's image: in a soak built from the Dockerfile, else one that refuses packages outside its lock."""
    if not SOAK:
        return build_replacement("serve", "requirements-serve.lock", tmp_path)
    root = build("serve", tmp_path)
    size = size_mb(root)
    print(f"the image's own content: {size:.0f} MB")
    # With the base image of 130 MB it is below 400 MB.
    assert size < 260
    packages = {path.name for path in root.glob("opt/venv/lib/python*/site-packages/*")}
    assert not {"tensorflow", "keras", "pandas", "pip", "pyarrow"} & packages
    return root


def test_the_stack_trains_swaps_versions_recovers_and_stops(state: Path, image: Path) -> None:
    proof = StackProof(state, {"serve": image})
    with proof:
        assert {*proof.stack.supervisors, *(line.partition(" ")[0] for line in proof.left_out)} >= {
            "service",
            "scheduler",
        }
        first = proof.train_first_version()
        assert len(first.body["forecasts"][0]["mean"]) == 3
        _check_mlflow(proof, first.body["model"]["run_id"])
        assert send(f"{proof.url}/v1/models")[0] == 401
        proof.swap_on_request()
        proof.kill_service()
        assert (
            'forecaster_schedule_last_success_timestamp_seconds{job="retrain-sine"}' in proof.read_scheduler_metrics()
        )
        proof.stack.wait("service", "service_healthy", 30)
        states = {supervisor.state for supervisor in proof.stack.supervisors.values() if supervisor.service.check}
        assert states == {"healthy"}
        assert len(list(processes_with(MARK, str(state.resolve())))) > 3
    _check_restart(proof)


@pytest.mark.skipif(not SOAK, reason="make soak, or make stack-proof")
def test_stack_proof_succeeds(state: Path) -> None:
    for name, result in prove(state).items():
        print(f"{name}: {result}")


def _check_mlflow(proof: StackProof, run_id: str) -> None:
    url = f"{proof.stack.url('mlflow')}/api/2.0/mlflow/runs/get?run_id={run_id}"
    assert send(url)[0] == 401
    password = (proof.state / "secrets" / "mlflow_password").read_text()
    account = {"authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}
    assert send(url, **account, host="elsewhere")[0] == 403
    status, body = send(url, **account)
    assert status == 200
    # Uploaded through the server into its volume, which no other service mounts.
    assert body["run"]["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
    assert list((proof.state / "volumes" / "mlflow" / "artifacts").rglob("model.onnx"))
    assert (proof.state / "volumes" / "mlflow" / "auth.db").is_file()


def _check_restart(proof: StackProof) -> None:
    """Start again without MLflow: database and cache are unchanged, and no role can read the other's database."""
    state = proof.state
    stack, _ = plan(state, proof.variables, proof.images)
    with stack:
        stack.up("service")
        assert "mlflow" not in stack.supervisors
        proof.find_all_forecasts()
        secrets = {name: (state / "secrets" / name).read_text() for name in ("database_url", "mlflow_store_uri")}
        foreign = secrets["mlflow_store_uri"].replace("postgres:5432/mlflow", "postgres:5432/forecaster")
        done = stack.run("migrate", "python", "-m", "pipelines.migrate", "--database", foreign.replace("+pg8000", ""))
        assert done.returncode == 1
        assert 'permission denied for database "forecaster"' in done.stderr
    assert list(processes_with(MARK, str(state.resolve()))) == []
    logs = "".join(file.read_text(errors="replace") for file in (state / "logs").iterdir())
    for name, text in secrets.items():
        password = text.partition("//")[2].partition("@")[0].partition(":")[2]
        assert password not in logs, name
    assert os.environ.get(MARK) is None
