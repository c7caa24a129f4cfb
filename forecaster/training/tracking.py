"""MLflow runs: what a training leaves behind for people to compare. A run that fails says so, with its error."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from forecaster.database.uris import default_tracking_uri, sqlite_file, without_password
from forecaster.domain.config import Config
from forecaster.domain.errors import ForecasterError, StoreUnavailable
from forecaster.domain.series import DS, Floats, Times
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, WORK, discard_runs, find_runs

if TYPE_CHECKING:
    import pandas as pd


class TrackingConfig(Config):
    """Where runs go: an MLflow tracking URI, an experiment, and the folder of unfinished fits' checkpoints.

    The URI is the service's, `FORECASTER_TRACKING_URI`, where the configuration has none. `patience_seconds` is how
    long a fit that is done waits for an MLflow that does not answer.
    """

    uri: str = Field(default_factory=default_tracking_uri)
    experiment: str = "forecaster"
    checkpoints: Path = Path("mlruns/checkpoints")
    patience_seconds: float = Field(600, ge=0, le=1e9)


@contextlib.contextmanager
def tracked_run(
    config: TrackingConfig, name: str, tags: dict[str, str] | None = None, *, is_anew: bool = False
) -> Iterator[str]:
    """Open a run, or continue the one of the same attempt, and yield its id.

    It ends FINISHED, FAILED with its error, or KILLED.

    Args:
        config: where.
        name: what people see.
        tags: `WORK`, and `ATTEMPT` where one that was killed is to be continued.
        is_anew: whether earlier runs of the same work are deleted.

    Raises:
        StoreUnavailable: the store cannot be written.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(config.uri)
    shown = without_password(config.uri)
    try:
        experiment = _experiment(config)
        run = _start(experiment, name, tags or {}, is_anew=is_anew)
    except (MlflowException, OSError) as error:
        raise StoreUnavailable(f"{shown}: no run can be opened ({error}); check tracking.uri") from error
    try:
        if "error" in run.data.tags:
            # of an attempt before this one
            mlflow.delete_tag("error")
        yield run.info.run_id
        mlflow.end_run()
    except KeyboardInterrupt:
        mlflow.end_run("KILLED")
        raise
    except Exception as error:
        # a full disk may refuse this too, and must not hide the error itself
        with contextlib.suppress(MlflowException, OSError):
            mlflow.set_tag("error", f"{type(error).__name__}: {error}"[:4000])
        with contextlib.suppress(MlflowException, OSError):
            mlflow.end_run("FAILED")
        if isinstance(error, MlflowException):
            raise StoreUnavailable(f"{shown}: the run cannot be written ({error}); check the store") from error
        if isinstance(error, OSError) and not isinstance(error, ForecasterError):
            raise StoreUnavailable(
                f"the run's files cannot be written ({error}); free space and start again"
            ) from error
        raise


def _experiment(config: TrackingConfig) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(config.experiment)
    if found is not None:
        return str(found.experiment_id)
    file = sqlite_file(config.uri)
    # a server knows its own place; a database asked directly keeps them beside its file, or in this folder's mlruns
    folder = file.parent if file else Path("mlruns")
    is_server = config.uri.startswith("http")
    location = None if is_server else (folder / "artifacts").resolve().as_uri()
    try:
        return str(mlflow.create_experiment(config.experiment, artifact_location=location))
    except MlflowException:
        # another process has made it meanwhile
        found = mlflow.get_experiment_by_name(config.experiment)
        if found is None:
            raise
        return str(found.experiment_id)


def _start(experiment: str, name: str, tags: dict[str, str], *, is_anew: bool) -> Any:
    import mlflow

    client = mlflow.MlflowClient()
    if is_anew:
        discard_runs(client, experiment, tags[WORK])
    if ATTEMPT in tags:
        begun = find_runs(client, experiment, ATTEMPT, tags[ATTEMPT])
        if begun:
            return mlflow.start_run(run_id=begun[0].info.run_id)
    return mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags)


def log_setup(config: dict[str, Any], tags: dict[str, str], file: str = "config.yaml") -> None:
    """Record a resolved configuration, whole in `file` and as flat parameters, and the tags."""
    import mlflow

    mlflow.log_dict(config, file)
    mlflow.log_params(dict(_flat(config)))
    mlflow.set_tags({**tags, "git_revision": git_revision()})


def log_dataset(frame: "pd.DataFrame", name: str, digest: str, source: str) -> None:
    """Record which data were used: name, schema, digest, and the file or generator that they come from."""
    import mlflow
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource

    plain = frame.assign(**{DS: frame[DS].astype(str)})
    # a path as such would be taken for an artifact and looked up
    dataset = mlflow.data.from_pandas(plain, CodeDatasetSource({"source": source}), name=name, digest=digest[:32])
    mlflow.log_input(dataset, context="training")


def log_test(metrics: dict[str, float]) -> None:
    """Record the test part's metrics, under `test/`."""
    import mlflow

    log_metrics({name: value for name, value in metrics.items() if name != "validation-mae"})
    mlflow.log_metric("validation/mae", metrics["validation-mae"])


def as_logged(metrics: dict[str, float]) -> dict[str, float]:
    """Return a run's figures with the names that `log_test` takes."""
    figures = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    return figures | ({"validation-mae": metrics["validation/mae"]} if "validation/mae" in metrics else {})


def log_metrics(metrics: dict[str, float]) -> None:
    """Record figures of rows that no fit has seen, under `test/`."""
    import mlflow

    mlflow.log_metrics({f"test/{name}": value for name, value in metrics.items()})


def log_figure(figure: Any, name: str) -> None:
    """Record a picture."""
    import mlflow

    mlflow.log_figure(figure, name)


def log_table(columns: dict[str, list[Any]], name: str) -> None:
    """Record a table that the UI shows."""
    import mlflow

    mlflow.log_table(columns, name)


def log_file(file: Path) -> None:
    """Record a file as it is."""
    import mlflow

    mlflow.log_artifact(str(file))


def log_nested(name: str, metrics: dict[str, float], tags: dict[str, str], table: dict[str, list[Any]]) -> None:
    """Record a run within the active one: figures under `test/`, and a table of its windows."""
    import mlflow

    # the parent's experiment, which is not the process-wide one, and the folder that tells who is at work on both
    parent = mlflow.active_run()
    tags = {CHECKPOINTS: parent.data.tags[CHECKPOINTS], **tags}
    with mlflow.start_run(experiment_id=parent.info.experiment_id, run_name=name, nested=True, tags=tags):
        log_metrics(metrics)
        mlflow.log_table(table, "windows.json")


def log_forecast_plot(
    times: Times, actual: Floats, mean: Floats, bands: dict[int, tuple[Floats, Floats]], title: str
) -> None:
    """Record a picture of one test window; shapes as `forecast_figure` has them."""
    import mlflow

    from forecaster.evaluation.plots import forecast_figure

    mlflow.log_figure(forecast_figure(times, actual, mean, bands, title), "forecast.png")


def log_bundle(folder: Path) -> str:
    """Upload a bundle's files and return where they lie, for the registry."""
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


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
