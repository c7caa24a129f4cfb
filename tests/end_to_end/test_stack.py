"""The composed stack, whole, without Docker: real Postgres, MLflow with accounts, the service, as the file says."""

import base64
import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local import plan
from deploy.places import MARK
from deploy.postgres import PROGRAMS
from deploy.stack import Stack
from tests.deploy.image import size_mb, stand_in, unpack

pytestmark = pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
SMALL = ("data.length=600", "fit.epochs=1", "model.widths=[4]")


@pytest.fixture
def state() -> Iterator[Path]:
    # Postgres runs as another account, which pytest's folders do not let in
    with tempfile.TemporaryDirectory(prefix="a stack ") as folder:
        yield Path(folder)


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, {"text": error.read().decode()}


def ran(stack: Stack, name: str, *command: str) -> dict[str, Any]:
    done = stack.run(name, "python", "-m", *command)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def processes_of(state: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(state.resolve()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_forecast(url: str, key: str) -> dict[str, Any]:
    """Ask until the champion has come."""
    start = time.time() // 3600 * 3600
    times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start + 3600 * hour)) for hour in range(48)]
    values = [hour % 24 / 12 for hour in range(48)]
    body = {"model": "sine", "series": [{"unique_id": "a", "ds": times, "y": values}], "horizon": 3}
    deadline = time.monotonic() + 60
    while True:
        try:
            status, answer = ask(f"{url}/v1/forecasts", body, authorization=f"Bearer {key}")
            if status == 200:
                return answer
        except OSError as error:
            status, answer = 0, {"text": str(error)}
        assert time.monotonic() < deadline, (status, answer)
        time.sleep(0.2)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the service runs from: in a soak the image that the Dockerfile makes, or else one that imports no more."""
    if os.environ.get("FORECASTER_SOAK") != "1":
        return stand_in("serve", "requirements-serve.lock", tmp_path)
    root = unpack("serve", tmp_path)
    size = size_mb(root)
    print(f"the image's own content: {size:.0f} MB")
    # beside 130 of the base, less than 400
    assert size < 260
    packages = {path.name for path in root.glob("opt/venv/lib/python*/site-packages/*")}
    assert not {"tensorflow", "keras", "pandas", "pip", "pyarrow"} & packages
    return root


def test_the_stack_trains_serves_heals_and_stops(state: Path, image: Path) -> None:
    stack, left_out = plan(state, {}, {"serve": image})
    with stack:
        # as docs/operations.md says: the first key, then everything; the service comes last, and finds its champion
        stack.up("mlflow", "migrate")
        key = ran(stack, "service", "pipelines.keys", "create", "--name", "me", "--scope", "forecast")["key"]
        trained = ran(stack, "scheduler", "pipelines.train", "pipelines/configs/sine.yaml", "--set", *SMALL)
        ran(stack, "scheduler", "pipelines.promote", "pipelines/configs/sine.yaml", "--without-gate")
        _check_mlflow(stack, state, trained["run_id"])
        stack.up()
        assert {*stack.keepers, *(line.partition(" ")[0] for line in left_out)} >= {"service", "scheduler"}

        url = stack.url("service")
        answer = wait_for_forecast(url, key)
        assert answer["model"]["run_id"] == trained["run_id"]
        assert len(answer["forecasts"][0]["mean"]) == 3
        assert ask(f"{url}/v1/models")[0] == 401

        before = stack.keepers["service"].process
        assert before is not None
        before.kill()
        assert wait_for_forecast(url, key)["model"] == answer["model"]
        after = stack.keepers["service"].process
        assert after is not None
        assert after.pid != before.pid
        stack.wait("service", "service_healthy", 30)
        assert {keeper.state for name, keeper in stack.keepers.items() if name != "migrate"} <= {"healthy", "running"}
        assert len(processes_of(state)) > 3
        kept = dict(stack.keepers)
        begin = time.monotonic()
    assert time.monotonic() - begin < 30
    # asked, not killed
    assert kept["postgres"].exit_status == 0
    assert -signal.SIGKILL not in {keeper.exit_status for keeper in kept.values()}
    assert processes_of(state) == []
    _check_what_was_kept(state, image, answer["forecasts"][0]["forecast_id"], key)


def _check_mlflow(stack: Stack, state: Path, run_id: str) -> None:
    url = f"{stack.url('mlflow')}/api/2.0/mlflow/runs/get?run_id={run_id}"
    assert ask(url)[0] == 401
    password = (state / "secrets" / "mlflow_password").read_text()
    account = {"authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}
    assert ask(url, **account, host="elsewhere")[0] == 403
    status, answer = ask(url, **account)
    assert status == 200
    # through the server, into its volume: nobody else has the folder
    assert answer["run"]["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
    assert list((state / "volumes" / "mlflow" / "artifacts").rglob("model.onnx"))
    assert (state / "volumes" / "mlflow" / "auth.db").is_file()


def _check_what_was_kept(state: Path, image: Path, forecast_id: str, key: str) -> None:
    """Start again, without MLflow: the database and the cache are as they were left, and each role has its own."""
    stack, _ = plan(state, {}, {"serve": image})
    with stack:
        stack.up("service")
        assert "mlflow" not in stack.keepers
        assert wait_for_forecast(stack.url("service"), key)
        status, answer = ask(f"{stack.url('service')}/v1/forecasts/{forecast_id}", authorization=f"Bearer {key}")
        assert status == 200, answer
        secrets = {name: (state / "secrets" / name).read_text() for name in ("database_url", "mlflow_store_uri")}
        foreign = secrets["mlflow_store_uri"].replace("postgres:5432/mlflow", "postgres:5432/forecaster")
        (state / "foreign").write_text(foreign)
        done = stack.run("migrate", "python", "-m", "pipelines.migrate", "--database", foreign.replace("+pg8000", ""))
        assert done.returncode == 1
        assert 'permission denied for database "forecaster"' in done.stderr
    assert processes_of(state) == []
    said = "".join(file.read_text(errors="replace") for file in (state / "logs").iterdir())
    for name, text in secrets.items():
        password = text.partition("//")[2].partition("@")[0].partition(":")[2]
        assert password not in said, name
    assert os.environ.get(MARK) is None
