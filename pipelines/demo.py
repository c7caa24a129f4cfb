"""Train two models, serve the better one and compare its forecast with the actuals.

Run `make demo`, or `make demo DATA=prices.csv` for real prices. The last `horizon` rows are held out from training;
they are the actuals.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.domain.config import load_config
from forecaster.domain.errors import ForecasterError
from forecaster.domain.levels import LEVELS
from forecaster.domain.series import DS, MEAN, UNIQUE_ID, Y, lower, upper
from forecaster.evaluation.plots import forecast_figure
from forecaster.registry.cache import CHAMPION
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.job import RegisteredVersion, train
from pipelines.command import command_parser, is_installed_command, run

CONFIGS = Path(__file__).parent / "configs"
FOLDER = Path("mlruns/demo")
READY_TIMEOUT_SECONDS = 90
# the overrides of the two models that compete
MODELS = (["model.decoder=last", "model.cell=lstm"], ["model.decoder=each_step", "model.cell=gru"])


def demo(data: Path | None) -> dict[str, Any]:
    """Run the demo; return the MAE of the forecast and of the last value."""
    file = CONFIGS / ("stock.yaml" if data else "sine.yaml")
    source = {"source": "files", "path": str(data)}
    changes = [f"data={json.dumps(source)}", "freq=B"] if data else []
    job = load_config(file, TrainConfig, changes, "train")
    known, actuals = _hold_out(job)
    versions = [_train(file, known, [*changes, f"freq={job.freq or 'null'}"]) for changes in MODELS]
    # select on the validation part, so that the test part stays unbiased
    best = min(versions, key=lambda version: version.metrics["validation-mae"])
    Store(job.tracking.uri).promote(job.name, best.version)
    _print_versions(versions, best)
    history = pd.read_csv(known, parse_dates=[DS]).tail(job.input_size)
    # with few calibration windows, the service refuses the highest level
    levels = [level for level in LEVELS if f"coverage-{level}" in best.metrics]
    with _serving(job, best.version) as url:
        answer = _request_forecast(url, job.name, history, len(actuals), levels)
    frame = _compare(answer["forecasts"][0], history, actuals, levels)
    plot = _plot(frame, history, levels, f"{job.name} version {best.version}, forecast over HTTP")
    errors = {name: float(np.abs(frame[column] - frame["actual"]).mean()) for name, column in ERRORS.items()}
    _print_forecast(frame, answer, errors)
    for level in set(LEVELS) - set(levels):
        sys.stdout.write(f"No {level} % interval: the file has too few calibration windows for it\n")
    _print_next_steps(plot)
    return {"model": answer["model"], **errors, "plot": str(plot)}


ERRORS = {"mae": MEAN, "naive_mae": "naive"}


def _hold_out(job: TrainConfig) -> tuple[Path, pd.DataFrame]:
    """Write all rows but the last `horizon` to a file; return the file and the held-out rows."""
    frame = job.data.load()
    prepare(job, frame)
    if frame[UNIQUE_ID].nunique() > 1:
        frame = frame[frame[UNIQUE_ID] == frame[UNIQUE_ID].iloc[0]]
    known = FOLDER / "known.csv"
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        frame.iloc[: -job.horizon].to_csv(known, index=False)
    except OSError as error:
        raise ForecasterError(
            f"{known}: cannot be written ({error}); free disk space, or run the demo in another folder"
        ) from error
    return known, frame.iloc[-job.horizon :]


def _train(file: Path, known: Path, changes: list[str]) -> RegisteredVersion:
    data = {"source": "files", "path": str(known)}
    return train(load_config(file, TrainConfig, [f"data={json.dumps(data)}", *changes], "train"))


@contextmanager
def _serving(job: TrainConfig, version: int) -> Iterator[str]:
    """Run the service on a free port; yield its URL once it serves `version` as champion."""
    settings = {"FORECASTER_PORT": "0", "FORECASTER_TRACKING_URI": job.tracking.uri}
    with (FOLDER / "service.log").open("w", encoding="utf-8") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "service"], stderr=log, stdout=log, env={**os.environ, **settings}
        )
        try:
            yield _wait_for(service, Path(log.name), job.name, version)
        finally:
            service.terminate()
            service.wait(timeout=30)


def _wait_for(service: "subprocess.Popen[bytes]", log: Path, model: str, version: int) -> str:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline and service.poll() is None:
        match = re.search(r"serving on (http://\S+)", log.read_text(encoding="utf-8"))
        # a service with an old cache is ready at once, with an old champion
        if match and _champions(match[1]).get(model) == version:
            return match[1]
        time.sleep(0.2)
    raise ForecasterError(
        f"the service did not serve version {version} of '{model}' within {READY_TIMEOUT_SECONDS} s; see its log, {log}"
    )


def _champions(url: str) -> dict[str, int]:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:  # noqa: S310
            models = json.load(answer)["models"]
    except (urllib.error.URLError, ConnectionError):
        return {}
    return {name: aliases.get(CHAMPION, 0) for name, aliases in models.items()}


def _request_forecast(url: str, model: str, history: pd.DataFrame, horizon: int, levels: list[int]) -> dict[str, Any]:
    times = [time.isoformat() for time in history[DS]]
    series = {"unique_id": str(history[UNIQUE_ID].iloc[0]), "ds": times, "y": history[Y].tolist()}
    body = {"model": model, "series": [series], "horizon": horizon, "level": levels}
    # kept for the curl command that the demo prints
    (FOLDER / "request.json").write_text(json.dumps(body), encoding="utf-8")
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/forecasts", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            result: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ForecasterError(f"the service refused the request: {json.load(error)['detail']}") from error
    return result


def _compare(forecast: dict[str, Any], history: pd.DataFrame, actuals: pd.DataFrame, levels: list[int]) -> pd.DataFrame:
    bounds = [name for level in levels for name in (lower(level), upper(level))]
    frame = pd.DataFrame({name: forecast[name] for name in (DS, MEAN, *bounds)})
    frame = frame.assign(actual=actuals[Y].to_numpy(), naive=float(history[Y].iloc[-1]))
    # with freq B, a holiday shifts the dates: the k-th step forecasts the k-th session
    sessions = actuals[DS].to_numpy()
    if (pd.to_datetime(frame[DS]).to_numpy() != sessions).any():
        frame.insert(len(frame.columns) - 1, "on", sessions)
    return frame


def _plot(frame: pd.DataFrame, history: pd.DataFrame, levels: list[int], title: str) -> Path:
    times = np.concatenate([history[DS].to_numpy(), pd.to_datetime(frame[DS]).to_numpy()])
    actual = np.concatenate([history[Y].to_numpy(), frame["actual"].to_numpy()])
    bands = {level: (frame[lower(level)].to_numpy(), frame[upper(level)].to_numpy()) for level in levels}
    file = FOLDER / "forecast.png"
    forecast_figure(times, actual, frame[MEAN].to_numpy(), bands, title).savefig(file, dpi=120)
    return file


def _print_versions(versions: list[RegisteredVersion], best: RegisteredVersion) -> None:
    rows = [
        {
            "version": version.version,
            "validation MAE": version.metrics["validation-mae"],
            "test MAE": version.metrics["mae"],
            "last value's": version.metrics["naive-mae"],
            # undefined if the last value has no error
            "relative MAE": version.metrics.get("relative_mae", np.nan),
            "": "champion" if version is best else "",
        }
        for version in versions
    ]
    sys.stdout.write(f"\n{pd.DataFrame(rows).to_string(index=False, float_format='{:.4g}'.format)}\n")


def _print_forecast(frame: pd.DataFrame, answer: dict[str, Any], errors: dict[str, float]) -> None:
    sys.stdout.write(f"\nForecast over HTTP, by version {answer['model']['version']}:\n")
    sys.stdout.write(frame.to_string(index=False, float_format="{:.4g}".format) + "\n")
    sys.stdout.write(f"\nMAE of these rows: forecast {errors['mae']:.4g}, last value {errors['naive_mae']:.4g}\n")
    for warning in answer["warnings"]:
        sys.stdout.write(f"Warning of the service: {warning}\n")


def _print_next_steps(plot: Path) -> None:
    serve, ui = "make serve", "make ui"
    if is_installed_command():
        serve, ui = "forecaster serve", "mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db"
    sys.stdout.write(
        f"\nPlot: {plot}\n"
        f"Compare the runs: {ui}, then open http://127.0.0.1:5000\n"
        f"Call the service: {serve}, then open http://127.0.0.1:8000/docs, or run\n"
        f"  curl http://127.0.0.1:8000/v1/forecasts -d @{FOLDER}/request.json\n\n"
    )


if __name__ == "__main__":
    parser = command_parser(
        "demo", str(__doc__), "python -m pipelines.demo\n  python -m pipelines.demo --data prices.csv"
    )
    parser.add_argument(
        "--data", metavar="FILE", type=Path, help="price file in Yahoo's CSV format (default: a noisy sine)"
    )
    arguments = parser.parse_args()
    sys.exit(run(lambda: demo(arguments.data)))
