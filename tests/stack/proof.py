"""The composed stack put to the proof: `python -m tests.stack.proof`, or `make stack-proof`.

Brings docker-compose.yml up without Docker, in a folder of its own; its scheduler trains, its gate promotes, its
service answers without a failed request while versions change; processes are killed and come back; all of it stops.
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
from tests.stack.example import EPOCHS, MODEL, job, request, schedule
from tests.stack.load_generator import Answer, LoadGenerator, ask
from tests.stack.local import plan
from tests.stack.paths import MARK
from tests.stack.processes import processes_with
from tests.stack.stack import StackError

# of one thing that is waited for, such as a training on a machine that does much else
PATIENCE_SECONDS = 600.0
_ASK = f"""
import os
from forecaster.database.engine import open_engine
from forecaster.database.retraining import request_retraining
print('{{"is_asked": %s}}' % str(request_retraining(
    open_engine(os.environ["FORECASTER_DATABASE_URL"]), "{MODEL}", "asked by the proof")).lower())
"""


class ProofError(Exception):
    """Something is not as it was promised."""


class Proof:
    """A stack in a folder, and what was seen of it so far, in words, in `figures`.

    Args:
        state: as `tests.stack.local.plan` has it.
        images: as `Places` has them.
        per_second: how many forecasts are asked for.
    """

    def __init__(self, state: Path, images: Mapping[str, Path] | None = None, per_second: float = 5) -> None:
        self.state, self.images, self._per_second = state, images, per_second
        self.figures: dict[str, str] = {}
        self.answers: list[Answer] = []
        self._configs = state / "configs"
        self._configs.mkdir(parents=True)
        self.write_recipe(EPOCHS[0])
        self.write_schedule(None)
        self._n_versions = 0
        self.variables = {"FORECASTER_CONFIGS": str(self._configs.resolve()), "FORECASTER_REFRESH_SECONDS": "10"}
        self.stack, self.left_out = plan(state, self.variables, images)

    def __enter__(self) -> "Proof":
        """Bring it up as docs/operations.md says: the first key, then everything."""
        begin = time.monotonic()
        try:
            self.stack.up("migrate")
            made = self.ran("service", "-m", "pipelines.keys", "create", "--name", "me", "--scope", "forecast")
            self.key: str = made["key"]
            self.stack.up(timeout_seconds=PATIENCE_SECONDS)
        except BaseException:
            self.stack.down()
            raise
        self._note("up, all of it healthy", begin)
        self.url = self.stack.url("service")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything, and look that nothing is left of it and that nothing had to be killed."""
        begin, kept = time.monotonic(), dict(self.stack.supervisors)
        self.stack.down()
        if error is not None:
            return
        self._note("stopped, no process left", begin)
        left = [process.cmdline() for process in processes_with(MARK, str(self.state.resolve()))]
        _hold(not left, f"processes are left: {left}")
        statuses = {name: supervisor.exit_status for name, supervisor in kept.items()}
        # the service ends in order and then as whoever was asked by SIGTERM
        _hold({0, -signal.SIGTERM} >= {*statuses.values()} and statuses["scheduler"] == 0, f"ended with {statuses}")

    def write_recipe(self, epochs: int) -> None:
        """Write the job that the scheduler runs; more epochs make a better version."""
        (self._configs / "job.yaml").write_text(yaml.safe_dump(job(epochs)), encoding="utf-8")

    def write_schedule(self, due: datetime | None) -> None:
        """Write the schedule: the retraining is due at a moment of this day, or when asked for."""
        (self._configs / "schedule.yaml").write_text(yaml.safe_dump(schedule(due)), encoding="utf-8")

    def ran(self, name: str, *words: str) -> dict[str, Any]:
        """Run `python …` beside the others as `docker compose run` does; return the last line."""
        done = self.stack.run(name, "python", *words)
        _hold(done.returncode == 0, f"{words}: {done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def train_the_first(self) -> Answer:
        """Let the retraining be due while the scheduler is killed: it comes back and trains; the gate promotes."""
        self._until("the scheduler's first look", lambda: self.runs() != [])
        begin = self._make_it_due()
        answer: Answer = self._until("the first version", lambda: self._answered(1))
        self._n_versions = 1
        self._note("due, trained, promoted, served: version 1", begin)
        return answer

    def swap_asked(self) -> None:
        """Ask for a better version in the table `jobs`, as the service does, and see it served under load."""

        def ask_for_it() -> float:
            begin = time.monotonic()
            _hold(self.ran("service", "-c", _ASK)["is_asked"], "the retraining was not asked for")
            return begin

        self._swap("asked for in `jobs`", ask_for_it)
        asked = self._until("the asked retraining's end", lambda: self._rows("SELECT * FROM jobs WHERE ended_at > 0"))
        _hold(len(asked) == 1 and '"promoted"' in asked[0]["outcome"], f"jobs: {asked}")
        self.figures["table `jobs`"] = f"taken, ended: {json.loads(asked[0]['outcome'])['outcome']}"

    def swap_in_spite_of_kills(self) -> None:
        """Kill the scheduler in the middle of a due training under load: it is done again, to one version."""

        def kill_it_within() -> float:
            begin = self._make_it_due()
            self._until("the training", lambda: self.runs("running"))
            # beyond its imports, before its end
            time.sleep(8)
            self._kill("scheduler", "in the middle of a training")
            return begin

        self._swap("due, its scheduler killed within", kill_it_within)
        _hold(len(self.runs("lost")) == 1, f"runs: {self.runs()}")

    def lose_the_service(self) -> None:
        """Kill the service: it comes back with its version, and has every forecast that it ever answered."""
        begin = time.monotonic()
        self._kill("service", "in the middle of everything")
        self._until("the service again", lambda: self._answered(self._n_versions))
        self._note("service killed; answers again", begin)
        self.find_all()

    def find_all(self) -> None:
        """Find each forecast that was answered, as it was answered."""
        served = [answer.said["forecasts"][0] for answer in self.answers if answer.status == 200]
        for one in served:
            status, found = ask(f"{self.url}/v1/forecasts/{one['forecast_id']}", authorization=f"Bearer {self.key}")
            _hold(status == 200 and found["forecast"] == one, f"answered {one}, found {status} {found}")
        self.figures["forecasts found in the ledger"] = f"{len(served)} of {len(served)}"

    def ask_the_scheduler(self) -> str:
        """Return the scheduler's figures, which only the token opens."""
        url = self.stack.address("scheduler", 9109) + "/metrics"
        token = (self.state / "secrets" / "schedule_token").read_text(encoding="utf-8")
        _hold(ask(url)[0] == 401, "the scheduler's figures are open to anybody")
        status, said = ask(url, authorization=f"Bearer {token}")
        _hold(status == 200, f"the scheduler's figures: {status} {said}")
        return str(said["text"])

    def runs(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of the table `runs`, of one state or all; the scheduler's first look adds one."""
        rows = self._rows("SELECT * FROM runs ORDER BY run_id")
        return [row for row in rows if state in (None, row["state"])]

    def _load(self) -> LoadGenerator:
        return LoadGenerator(self.url, self.key, request(), self._per_second)

    def _swap(self, how: str, begin_it: Callable[[], float]) -> None:
        before, wanted = self._n_versions, self._n_versions + 1
        self.write_recipe(EPOCHS[before])
        with self._load() as load:
            begin = begin_it()
            self._until(f"version {wanted}", lambda: load.answers and load.answers[-1].version == wanted)
            self._note(f"{how}, trained, promoted, served: version {wanted}", begin)
            time.sleep(2)
        answers = load.answers
        self.answers += answers
        self._n_versions = wanted
        failed = [answer for answer in answers if answer.status != 200]
        _hold(not failed, f"{len(failed)} of {len(answers)} requests failed, such as {failed[:1]}")
        versions = [answer.version for answer in answers]
        first = versions.index(wanted)
        _hold(set(versions[:first]) == {before} and set(versions[first:]) == {wanted}, f"versions {versions}")
        slowest = max(answer.seconds for answer in answers)
        self.figures[f"requests meanwhile: version {wanted}"] = (
            f"{len(answers)}, failed 0; by {before}: {first}, by {wanted}: {len(answers) - first}; "
            f"the slowest {slowest * 1000:.0f} ms"
        )

    def _make_it_due(self) -> float:
        """Write a schedule by which it is due in a moment, and kill the scheduler, which reads it when it is back."""
        self.write_schedule(datetime.now(UTC) + timedelta(seconds=1))
        begin = time.monotonic()
        self._kill("scheduler", "while a run is due")
        return begin

    def _kill(self, name: str, when: str) -> None:
        supervisor, begin = self.stack.supervisors[name], time.monotonic()
        killed = supervisor.process
        _hold(killed is not None and killed.poll() is None, f"{name} does not run")
        assert killed is not None
        killed.kill()
        self._until(f"{name} again", lambda: supervisor.process is not killed and supervisor.state == "healthy")
        self._note(f"{name} killed {when}; healthy again", begin)

    def _answered(self, version: int) -> Answer | None:
        answer = self._load().once()
        if answer.version != version:
            return None
        self.answers.append(answer)
        return answer

    def _rows(self, query: str) -> list[dict[str, Any]]:
        # with this machine's addresses, as the service has it
        url = (self.state / "service" / "secrets" / "database_url").read_text(encoding="utf-8")
        engine = create_engine(url.replace("postgresql:", "postgresql+pg8000:", 1))
        try:
            with engine.connect() as connection:
                return [dict(row._mapping) for row in connection.execute(text(query))]
        finally:
            engine.dispose()

    def _until(self, what: str, is_so: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := is_so()):
            if time.monotonic() > deadline:
                said = [f"{run['state']}: {run['outcome']}" for run in self.runs()]
                raise ProofError(f"{what} has not come in {PATIENCE_SECONDS:g} s; the job's runs: {said}")
            time.sleep(0.2)
        return found

    def _note(self, what: str, begin: float) -> None:
        self.figures[what] = f"{time.monotonic() - begin:.1f} s"


def _hold(is_so: bool, what: str) -> None:
    if not is_so:
        raise ProofError(what)


def prove(state: Path) -> dict[str, str]:
    """Do all of it at length, and return the figures.

    Raises:
        ProofError, StackError, ComposeError: something is not as it should be; everything is stopped nevertheless.
    """
    proof = Proof(state, per_second=10)
    with proof:
        proof.train_the_first()
        proof.swap_asked()
        proof.swap_in_spite_of_kills()
        proof.lose_the_service()
        proof.ask_the_scheduler()
    return proof.figures


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.proof", description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, help="an empty folder, which is kept; default: one that is removed")
    state = parser.parse_args().state
    begin = time.monotonic()
    try:
        if state is not None:
            figures = prove(state)
        else:
            # where Postgres' account gets in
            with tempfile.TemporaryDirectory(prefix="stack") as folder:
                figures = prove(Path(folder))
    except (ProofError, StackError, ComposeError, FileExistsError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    figures |= {"all of it": f"{time.monotonic() - begin:.0f} s on {os.cpu_count()} cores"}
    width = max(map(len, figures))
    sys.stdout.write("".join(f"{name.ljust(width)}  {figure}\n" for name, figure in figures.items()))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
