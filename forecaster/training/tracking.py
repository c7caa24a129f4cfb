"""Track trainings and backtests as MLflow runs. A run that fails has the status FAILED and its error as a tag."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from forecaster.database.uris import default_tracking_uri, mask_password, sqlite_file, without_password
from forecaster.domain.config import Config
from forecaster.domain.errors import ForecasterError, StoreUnavailable
from forecaster.domain.interrupts import uninterrupted
from forecaster.domain.series import DS, Floats, Times
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, WORK, delete_runs, find_runs

if TYPE_CHECKING:
    import pandas as pd


class TrackingConfig(Config):
    """Where runs are tracked: an MLflow tracking URI, an experiment, and the folder for checkpoints.

    The default URI is `FORECASTER_TRACKING_URI`, as for the service. A finished fit waits `patience_seconds` for an
    MLflow that does not answer. `diagnostics` are pictures of what the network does.
    """

    uri: str = Field(default_factory=default_tracking_uri)
    experiment: str = "forecaster"
    checkpoints: Path = Path("mlruns/checkpoints")
    patience_seconds: float = Field(600, ge=0, le=1e9)
    diagnostics: bool = True


def connect(config: TrackingConfig) -> None:
    """Track the runs that this process opens in this MLflow."""
    import mlflow

    mlflow.set_tracking_uri(config.uri)


@contextlib.contextmanager
def tracked_run(
    config: TrackingConfig, name: str, tags: dict[str, str] | None = None, *, replace_existing: bool = False
) -> Iterator[str]:
    """Open a run, or continue the run of the same attempt, and yield its id.

    The run ends with the status FINISHED, FAILED (with its error as a tag) or KILLED.

    Args:
        config: where to track the run.
        name: the run's name.
        tags: the run's tags, with `WORK`, and with `ATTEMPT` if a killed run of that attempt is to be continued.
        replace_existing: whether to delete earlier runs of the same work.

    Raises:
        StoreUnavailable: the store cannot be written.
    """
    from mlflow.exceptions import MlflowException

    with _killed_by_interrupt():
        run_id = _open(config, name, tags or {}, replace_existing=replace_existing)
        try:
            yield run_id
            _end("FINISHED")
        except Exception as error:
            _end_failed(error, config.uri)
            if isinstance(error, MlflowException):
                reason = mask_password(str(error), config.uri)
                shown = without_password(config.uri)
                raise StoreUnavailable(f"{shown}: the run cannot be written ({reason}); check the store") from error
            if isinstance(error, OSError) and not isinstance(error, ForecasterError):
                reason = mask_password(str(error), config.uri)
                raise StoreUnavailable(
                    f"the run's files cannot be written ({reason}); free disk space or check the store, and start again"
                ) from error
            raise


def _open(config: TrackingConfig, name: str, tags: dict[str, str], *, replace_existing: bool) -> str:
    """Open a run, or continue the run of the same attempt; return its id.

    Raises:
        StoreUnavailable: the store cannot be written.
    """
    from mlflow.exceptions import MlflowException

    connect(config)
    try:
        return str(_start(_experiment(config), name, tags, replace_existing=replace_existing).info.run_id)
    except (MlflowException, OSError) as error:
        shown, reason = without_password(config.uri), mask_password(str(error), config.uri)
        raise StoreUnavailable(f"{shown}: a run cannot be opened ({reason}); check tracking.uri") from error


@contextlib.contextmanager
def _killed_by_interrupt() -> Iterator[None]:
    """Set the status of the active run to KILLED if Ctrl-C interrupts the block."""
    try:
        yield
    except KeyboardInterrupt:
        _end("KILLED")
        raise


@uninterrupted()
def _end(status: str) -> None:
    """End the active run."""
    import mlflow

    mlflow.end_run(status)


@uninterrupted()
def _end_failed(error: Exception, uri: str) -> None:
    """Set the error as a tag of the active run, and its status to FAILED."""
    import mlflow
    from mlflow.exceptions import MlflowException

    # on a full disk this may fail too; it must not hide the original error
    with contextlib.suppress(MlflowException, OSError):
        mlflow.set_tag("error", mask_password(f"{type(error).__name__}: {error}", uri)[:4000])
    with contextlib.suppress(MlflowException, OSError):
        mlflow.end_run("FAILED")


@uninterrupted()
def _experiment(config: TrackingConfig) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(config.experiment)
    if found is not None:
        return str(found.experiment_id)
    file = sqlite_file(config.uri)
    # a server chooses the artifact location; for a database it is beside the SQLite file, or in ./mlruns
    folder = file.parent if file else Path("mlruns")
    is_server = config.uri.startswith("http")
    location = None if is_server else (folder / "artifacts").resolve().as_uri()
    try:
        return str(mlflow.create_experiment(config.experiment, artifact_location=location))
    except MlflowException:
        # another process has created it in the meantime
        found = mlflow.get_experiment_by_name(config.experiment)
        if found is None:
            raise
        return str(found.experiment_id)


@uninterrupted()
def _start(
    experiment: str, name: str, tags: dict[str, str], *, replace_existing: bool = False, parent_id: str | None = None
) -> Any:
    """Start a run, or continue the run of the same attempt."""
    import mlflow

    client = mlflow.MlflowClient()
    if replace_existing:
        delete_runs(client, experiment, tags[WORK])
    if ATTEMPT in tags:
        interrupted = find_runs(client, experiment, ATTEMPT, tags[ATTEMPT])
        if interrupted:
            run = mlflow.start_run(run_id=interrupted[0].info.run_id, nested=parent_id is not None)
            try:
                if "error" in run.data.tags:
                    mlflow.delete_tag("error")
            except Exception as error:
                # an active run would block the next attempt
                _end_failed(error, mlflow.get_tracking_uri())
                raise
            return run
    return mlflow.start_run(
        experiment_id=experiment, run_name=name, tags=tags, nested=parent_id is not None, parent_run_id=parent_id
    )


@uninterrupted()
def log_setup(config: dict[str, Any], tags: dict[str, str], file: str = "config.yaml") -> None:
    """Log a resolved configuration as `file` and as flat parameters, and set the tags."""
    import mlflow

    mlflow.log_dict(config, file)
    mlflow.log_params(dict(_flatten(config)))
    mlflow.set_tags({**tags, "git_revision": git_revision()})


@uninterrupted()
def log_dataset(frame: "pd.DataFrame", name: str, digest: str, source: str) -> None:
    """Log the dataset: its name, schema and digest, and the file or generator that it comes from."""
    import mlflow
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource

    plain = frame.assign(**{DS: frame[DS].astype(str)})
    # given a plain path, MLflow would look it up as an artifact
    dataset = mlflow.data.from_pandas(plain, CodeDatasetSource({"source": source}), name=name, digest=digest[:32])
    mlflow.log_input(dataset, context="training")


def log_test(metrics: dict[str, float]) -> None:
    """Log the test part's metrics under `test/`, and `validation-mae` as `validation/mae`."""
    log_metrics({name: value for name, value in metrics.items() if name != "validation-mae"})
    log_validation({"mae": metrics["validation-mae"]})


def read_test_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Return a run's metrics with the names that `log_test` takes."""
    test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    return test | ({"validation-mae": metrics["validation/mae"]} if "validation/mae" in metrics else {})


@uninterrupted()
def log_metrics(metrics: dict[str, float]) -> None:
    """Log metrics of held-out rows, under `test/`."""
    import mlflow

    mlflow.log_metrics({f"test/{name}": value for name, value in metrics.items()})


@uninterrupted()
def log_figure(figure: Any, name: str) -> None:
    """Log a figure."""
    import mlflow

    mlflow.log_figure(figure, name)


@uninterrupted()
def log_table(columns: dict[str, list[Any]], name: str) -> None:
    """Log a table that MLflow's UI can show."""
    import mlflow

    mlflow.log_table(columns, name)


@uninterrupted()
def log_file(file: Path) -> None:
    """Log a file."""
    import mlflow

    mlflow.log_artifact(str(file))


def log_nested(name: str, metrics: dict[str, float], tags: dict[str, str], table: dict[str, list[Any]]) -> None:
    """Log a run nested in the active run, with metrics under `test/` and a table of its windows."""
    with nested_run(name, tags):
        log_metrics(metrics)
        log_table(table, "windows.json")


@contextlib.contextmanager
def nested_run(
    name: str,
    tags: dict[str, str] | None = None,
    parameters: dict[str, Any] | None = None,
    parent_id: str | None = None,
) -> Iterator[None]:
    """Open a nested run, or continue the run of the same attempt.

    The run ends with the status FINISHED, FAILED (with its error as a tag) or KILLED.

    Args:
        name: the run's name.
        tags: the run's tags, with `ATTEMPT` if a killed run of that attempt is to be continued.
        parameters: the run's parameters.
        parent_id: the run that it is nested in, which another process may have opened; None for the active run.
    """
    import mlflow

    # in the parent's experiment (not the process-wide default), and with its checkpoint folder, whose lock guards both
    parent = mlflow.get_run(parent_id) if parent_id else mlflow.active_run()
    tags = {CHECKPOINTS: parent.data.tags[CHECKPOINTS], **(tags or {})}
    with _killed_by_interrupt():
        _start(parent.info.experiment_id, name, tags, parent_id=parent.info.run_id)
        try:
            _log_parameters(parameters or {})
            yield
            _end("FINISHED")
        except Exception as error:
            _end_failed(error, mlflow.get_tracking_uri())
            raise


@uninterrupted()
def _log_parameters(parameters: dict[str, Any]) -> None:
    import mlflow

    mlflow.log_params(parameters)


@uninterrupted()
def log_validation(metrics: dict[str, float], epoch: int | None = None) -> None:
    """Log metrics of the validation part, under `validation/`."""
    import mlflow

    mlflow.log_metrics({f"validation/{name}": value for name, value in metrics.items()}, step=epoch)


@uninterrupted()
def set_tag(name: str, value: str) -> None:
    """Set a tag of the active run."""
    import mlflow

    mlflow.set_tag(name, value)


def log_forecast_plot(
    times: Times, actual: Floats, mean: Floats, bands: dict[int, tuple[Floats, Floats]], title: str
) -> None:
    """Log a plot of one test window; shapes as `forecast_figure` takes them."""
    from forecaster.evaluation.plots import forecast_figure

    log_figure(forecast_figure(times, actual, mean, bands, title), "forecast.png")


@uninterrupted()
def log_bundle(folder: Path) -> str:
    """Upload a bundle's files and return their URI, for the registry."""
    import mlflow

    mlflow.log_artifacts(str(folder), "model")
    run = mlflow.active_run()
    return f"{run.info.artifact_uri}/model"


def git_revision() -> str:
    """Return the checkout's commit, with `-dirty` if it has changes; `unknown` outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)  # noqa: S603
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
