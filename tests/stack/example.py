"""A model that trains in seconds, for the stack's test: its job file, its schedule, and a forecast request."""

from datetime import UTC, datetime, timedelta
from typing import Any

MODEL = "sine"
# Of version 1, 2, …: more epochs make a clearly better version.
EPOCHS = (1, 3, 6)


def forecast_request() -> dict[str, Any]:
    """Return a request with two days of hourly values up to this hour and a horizon of three hours."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=48)
    times = [f"{start + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}" for hour in range(48)]
    values = [hour % 24 / 12 for hour in range(48)]
    return {"model": MODEL, "series": [{"unique_id": "a", "ds": times, "y": values}], "horizon": 3, "level": [80]}


def job_file(epochs: int) -> dict[str, Any]:
    """Return the sections of a job file; more epochs make a better version."""
    sine = {"source": "sine", "sines": [{"amplitude": 1.0, "period": 24}], "noise": 0.05, "length": 1000, "seed": 7}
    backtest = {"n_windows": 60, "levels": [80], "season_length": 24}
    return {
        "train": {
            "name": MODEL,
            "data": {**sine, "start": "2026-01-01T00:00:00", "freq": "h"},
            "input_size": 48,
            "horizon": 3,
            "transforms": [{"kind": "standardize"}],
            "model": {"cell": "simple_rnn", "widths": [8]},
            "fit": {"epochs": epochs, "batch_size": 32, "learning_rate": 0.01},
            "seed": 7,
        },
        "backtest": backtest,
        # Wide limits: sixty cutoffs measure coverage roughly, and busy cores distort latency.
        "promote": {"name": MODEL, "gate": {"coverage_tolerance": 0.2, "latency_seconds": 5}, "backtest": backtest},
        "retrain": {},
    }


def schedule_file(due: datetime | None) -> dict[str, Any]:
    """Return a schedule that runs the retraining daily at the time of `due`; with None, only on request."""
    when = None
    if due is not None:
        midnight = due.replace(hour=0, minute=0, second=0, microsecond=0)
        when = {"exchange": "24/7", "edge": "open", "minutes": (due - midnight) / timedelta(minutes=1)}
    one = {"name": f"retrain-{MODEL}", "run": "retrain", "config": "pipelines/configs/job.yaml", "when": when}
    return {
        "schedule": {"jobs": [one], "poll_seconds": 0.5, "lost_after_seconds": 30, "retry": {"first_seconds": 1}},
    }
