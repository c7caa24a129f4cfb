"""Test the whole stack under load and faults: `python -m tests.stack.proof`, or `make stack-proof`.

Starts docker-compose.yml without Docker in a folder of its own. The scheduler trains and the gate promotes; no request
fails while versions change; killed processes restart; everything stops in order.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from sqlalchemy import create_engine, text

from tests.stack.compose import ComposeError
from tests.stack.example import EPOCHS, MODEL, forecast_request, job_file, schedule_file
from tests.stack.load_generator import LoadGenerator, Response, send
from tests.stack.local import plan
from tests.stack.paths import MARK
from tests.stack.processes import processes_with
from tests.stack.stack import StackError

# For one event, such as a training on a busy machine.
TIMEOUT_SECONDS = 600.0
_REQUEST_RETRAINING = f"""
import os
from forecaster.database.engine import open_engine
from forecaster.database.retraining import request_retraining
print('{{"is_requested": %s}}' % str(request_retraining(
    open_engine(os.environ["FORECASTER_DATABASE_URL"]), "{MODEL}", "requested by the test")).lower())
"""


class ProofError(Exception):
    """A guarantee of the stack does not hold."""


class StackProof:
    """A running stack, with steps that change or break it and check its guarantees.

    Args:
        state: as in `tests.stack.local.plan`.
        images: as in `StackPaths`.
        per_second: forecast requests per second of the load.

    Attributes:
        results: a measurement in words for each step.
        responses: the responses to all forecast requests.
    """

    def __init__(self, state: Path, images: Mapping[str, Path] | None = None, per_second: float = 5) -> None:
        self.state, self.images, self._per_second = state, images, per_second
        self.results: dict[str, str] = {}
        self.responses: list[Response] = []
        self._configs = state / "configs"
        self._configs.mkdir(parents=True)
        self.write_recipe(EPOCHS[0])
        self.write_schedule(None)
        self._n_versions = 0
        self.variables = {"FORECASTER_CONFIGS": str(self._configs.resolve()), "FORECASTER_REFRESH_SECONDS": "10"}
        self.stack, self.left_out = plan(state, self.variables, images)

    def __enter__(self) -> "StackProof":
        """Start the stack as docs/operations/compose.md says: first create a key, then start everything."""
        begin = time.monotonic()
        try:
            self.stack.up("migrate")
            made = self.run_python("service", "-m", "pipelines.keys", "create", "--name", "me", "--scope", "forecast")
            self.key: str = made["key"]
            self.stack.up(timeout_seconds=TIMEOUT_SECONDS)
        except BaseException:
            self.stack.down()
            raise
        self._record("start until all services are healthy", begin)
        self.url = self.stack.url("service")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything; check that no process is left and that none had to be killed."""
        begin, supervisors = time.monotonic(), dict(self.stack.supervisors)
        self.stack.down()
        if error is not None:
            return
        self._record("stop until no process is left", begin)
        left = [process.cmdline() for process in processes_with(MARK, str(self.state.resolve()))]
        _check(not left, f"processes are left: {left}")
        statuses = {name: supervisor.exit_status for name, supervisor in supervisors.items()}
        # After its orderly stop uvicorn raises SIGTERM again.
        _check({0, -signal.SIGTERM} >= {*statuses.values()} and statuses["scheduler"] == 0, f"ended with {statuses}")

    def write_recipe(self, epochs: int) -> None:
        """Write the job file that the scheduler runs; more epochs make a better version."""
        (self._configs / "job.yaml").write_text(yaml.safe_dump(job_file(epochs)), encoding="utf-8")

    def write_schedule(self, due: datetime | None) -> None:
        """Write the schedule: the retraining is due at this time of the day; with None, only on request."""
        (self._configs / "schedule.yaml").write_text(yaml.safe_dump(schedule_file(due)), encoding="utf-8")

    def run_python(self, name: str, *words: str) -> dict[str, Any]:
        """Run `python …` like `docker compose run` does; return the last line of its output, which is JSON."""
        done = self.stack.run(name, "python", *words)
        _check(done.returncode == 0, f"{words}: {done.stderr}")
        last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return last

    def train_first_version(self) -> Response:
        """Kill the scheduler while the retraining is due: it restarts and trains, and the gate promotes version 1."""
        self._wait_for("the scheduler's first look at its jobs", lambda: self.runs() != [])
        begin = self._make_it_due()
        response: Response = self._wait_for("version 1", lambda: self._forecast_by(1))
        self._n_versions = 1
        self._record("version 1: due until served", begin)
        return response

    def swap_on_request(self) -> None:
        """Request a retraining in the table `jobs`, as the service does; check that no request fails meanwhile."""

        def request_retraining() -> float:
            begin = time.monotonic()
            _check(
                self.run_python("service", "-c", _REQUEST_RETRAINING)["is_requested"],
                "the retraining was not requested",
            )
            return begin

        self._swap("requested in `jobs`", request_retraining)
        ended = self._wait_for(
            "the end of the requested retraining", lambda: self._rows("SELECT * FROM jobs WHERE ended_at > 0")
        )
        _check(len(ended) == 1 and '"promoted"' in ended[0]["outcome"], f"jobs: {ended}")
        self.results["outcome in the table `jobs`"] = json.loads(ended[0]["outcome"])["outcome"]

    def swap_despite_kill(self) -> None:
        """Kill the scheduler during a due training under load: the training is repeated and makes one version."""

        def kill_scheduler() -> float:
            begin = self._make_it_due()
            self._wait_for("the training", lambda: self.runs("running"))
            # After the imports of the training, and before its end.
            time.sleep(8)
            self._kill("scheduler", "during a training")
            return begin

        self._swap("due, and the scheduler killed", kill_scheduler)
        _check(len(self.runs("lost")) == 1, f"runs: {self.runs()}")

    def kill_service(self) -> None:
        """Kill the service: it restarts with the same version, and every forecast is in the ledger."""
        begin = time.monotonic()
        self._kill("service", "while it serves")
        self._wait_for("the restarted service", lambda: self._forecast_by(self._n_versions))
        self._record("service killed, until it forecasts", begin)
        self.find_all_forecasts()

    def find_all_forecasts(self) -> None:
        """Check that the ledger has each forecast as it was served."""
        served = [response.body["forecasts"][0] for response in self.responses if response.status == 200]
        for forecast in served:
            url = f"{self.url}/v1/forecasts/{forecast['forecast_id']}"
            status, found = send(url, authorization=f"Bearer {self.key}")
            _check(status == 200 and found["forecast"] == forecast, f"served {forecast}, found {status} {found}")
        self.results["forecasts found in the ledger"] = f"{len(served)} of {len(served)}"

    def read_scheduler_metrics(self) -> str:
        """Return the scheduler's metrics; check that they need the token."""
        url = self.stack.address("scheduler", 9109) + "/metrics"
        token = (self.state / "secrets" / "schedule_token").read_text(encoding="utf-8")
        _check(send(url)[0] == 401, "the scheduler's metrics need no token")
        status, body = send(url, authorization=f"Bearer {token}")
        _check(status == 200, f"the scheduler's metrics: {status} {body}")
        return str(body["text"])

    def runs(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of the table `runs`, of one state or all; the scheduler's first look at its jobs adds one."""
        rows = self._rows("SELECT * FROM runs ORDER BY run_id")
        return [row for row in rows if state in (None, row["state"])]

    def _load(self) -> LoadGenerator:
        return LoadGenerator(self.url, self.key, forecast_request(), self._per_second)

    def _swap(self, how: str, start: Callable[[], float]) -> None:
        before, wanted = self._n_versions, self._n_versions + 1
        self.write_recipe(EPOCHS[before])
        with self._load() as load:
            begin = start()
            self._wait_for(f"version {wanted}", lambda: load.responses and load.responses[-1].version == wanted)
            self._record(f"version {wanted}: {how}, until served", begin)
            time.sleep(2)
        responses = load.responses
        self.responses += responses
        self._n_versions = wanted
        failed = [response for response in responses if response.status != 200]
        _check(not failed, f"{len(failed)} of {len(responses)} requests failed, such as {failed[:1]}")
        versions = [response.version for response in responses]
        first = versions.index(wanted)
        _check(set(versions[:first]) == {before} and set(versions[first:]) == {wanted}, f"versions {versions}")
        slowest = max(response.seconds for response in responses)
        self.results[f"version {wanted}: requests meanwhile"] = (
            f"{first} served by version {before}, {len(responses) - first} by version {wanted}, none failed; "
            f"slowest {slowest * 1000:.0f} ms"
        )

    def _make_it_due(self) -> float:
        """Write a schedule with the retraining due in a second; kill the scheduler, which reads it at its restart."""
        self.write_schedule(datetime.now(UTC) + timedelta(seconds=1))
        begin = time.monotonic()
        self._kill("scheduler", "before a due run")
        return begin

    def _kill(self, name: str, when: str) -> None:
        supervisor, begin = self.stack.supervisors[name], time.monotonic()
        killed = supervisor.process
        _check(killed is not None and killed.poll() is None, f"{name} is not running")
        assert killed is not None
        killed.kill()
        self._wait_for(
            f"the restart of {name}", lambda: supervisor.process is not killed and supervisor.state == "healthy"
        )
        self._record(f"{name} killed {when}, until healthy", begin)

    def _forecast_by(self, version: int) -> Response | None:
        """Send a forecast request; return the response, None if another version answered."""
        response = self._load().send_one()
        if response.version != version:
            return None
        self.responses.append(response)
        return response

    def _rows(self, query: str) -> list[dict[str, Any]]:
        # The service's copy of the secret has this machine's addresses.
        url = (self.state / "service" / "secrets" / "database_url").read_text(encoding="utf-8")
        engine = create_engine(url.replace("postgresql:", "postgresql+pg8000:", 1))
        try:
            with engine.connect() as connection:
                return [dict(row._mapping) for row in connection.execute(text(query))]
        finally:
            engine.dispose()

    def _wait_for(self, event: str, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (result := condition()):
            if time.monotonic() > deadline:
                runs = [f"{run['state']}: {run['outcome']}" for run in self.runs()]
                raise ProofError(f"{event} did not happen within {TIMEOUT_SECONDS:g} s; the job's runs: {runs}")
            time.sleep(0.2)
        return result

    def _record(self, what: str, begin: float) -> None:
        self.results[what] = f"{time.monotonic() - begin:.1f} s"


def _check(holds: bool, failure: str) -> None:
    if not holds:
        raise ProofError(failure)


def prove(state: Path) -> dict[str, str]:
    """Run all steps and return the results.

    Raises:
        ProofError: a promise does not hold; everything is stopped nevertheless.
        StackError: a service does not start.
        ComposeError: the Compose file is not supported.
    """
    proof = StackProof(state, per_second=10)
    with proof:
        proof.train_first_version()
        proof.swap_on_request()
        proof.swap_despite_kill()
        proof.kill_service()
        proof.read_scheduler_metrics()
    return proof.results


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.proof", description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, help="an empty folder, which is kept (default: a temporary one)")
    state = parser.parse_args().state
    begin = time.monotonic()
    try:
        if state is not None:
            results = prove(state)
        else:
            # Postgres' account can enter this folder.
            with tempfile.TemporaryDirectory(prefix="stack") as folder:
                results = prove(Path(folder))
    except (ProofError, StackError, ComposeError, FileExistsError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    results |= {"total": f"{time.monotonic() - begin:.0f} s on {os.cpu_count()} cores"}
    width = max(map(len, results))
    sys.stdout.write("".join(f"{name.ljust(width)}  {result}\n" for name, result in results.items()))
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
