"""A schedule is validated when it is read; an error message names the job."""

from pathlib import Path
from typing import Any

import pytest

from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.scheduling.config import RetryConfig, ScheduleConfig
from tests.conftest import ROOT

DAILY = {"cron": "0 7 * * *"}


def built(*jobs: dict[str, Any], **more: Any) -> ScheduleConfig:
    return build_config({"jobs": [{"when": DAILY, **job} for job in jobs], **more}, ScheduleConfig, "s.yaml")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            {"when": {"exchange": "MARS", "edge": "close", "minutes": 5}},
            r"when\.exchange: there is no calendar of this exchange",
        ),
        ({"when": {"cron": "61 * * * *"}}, r"when\.cron: .*61"),
        ({"when": {"cron": "0 7 * *"}}, r"when\.cron: write five fields"),
        ({"when": {"cron": "0 7 * * 1-5"}}, r"when\.cron: name the weekdays"),
        ({"when": {"cron": "0 7 1 * mon"}}, r"when\.cron: set the day of the month or the weekday"),
        ({"when": {"cron": "0 7 31 2 *"}}, r"when\.cron: no date matches it"),
        ({"when": {"cron": "0 7 * * *", "zone": "Europe/Nowhere"}}, r"when\.zone: unknown time zone"),
        ({"run": "rm"}, "run: Input should be"),
        ({"wehn": 1}, "wehn: unknown key"),
        ({"run": "fetch"}, "config: missing; fetch needs one"),
        ({"run": "fetch", "config": "none.yaml"}, r"config: none\.yaml: cannot be read"),
        ({"arguments": ["--database", "postgresql://me:secret@host/d"]}, "--database: a job uses the schedule's"),
    ],
)
def test_an_invalid_job_is_refused_with_its_name(job: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml: jobs\.1 \(other\).*" + message) as caught:
        built({"name": "first", "run": "score"}, {"name": "other", "run": "score"} | job)
    assert "secret" not in str(caught.value)


def test_two_jobs_with_the_same_name_or_retrained_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs: two are named 'score'"):
        built({"name": "score", "run": "score"}, {"name": "score", "run": "forget"})
    file = tmp_path / "stock.yaml"
    file.write_text("train: {name: stock}\nfetch: {symbols: [SPY]}\n")
    job = {"name": "one", "run": "retrain", "config": str(file)}
    with pytest.raises(ConfigError, match="jobs: two retrain 'stock'"):
        built(job, job | {"name": "two"})
    config = built(job, job | {"name": "two", "overrides": ["train.name=other"]})
    assert config.retrained_by() == {"stock": "one", "other": "two"}
    assert config.jobs[1].command == ["retrain", str(file), "--set", "train.name=other"]
    file.write_text("fetch: {symbols: [SPY]}\n")
    with pytest.raises(ConfigError, match=r"\(one\).*has no train\.name"):
        built(job)


def test_retry_delays_grow_up_to_the_limit() -> None:
    retry = RetryConfig(first_seconds=10, factor=3, most_seconds=100)
    assert [retry.delay_seconds(failures) for failures in (1, 2, 3, 4, 100)] == [10, 30, 90, 100, 100]


def test_the_shipped_schedule_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("pipelines/configs/schedule.yaml", ScheduleConfig, (), "schedule")
    assert config.retrained_by() == {"stock": "retrain-stock"}
    assert all((ROOT / "pipelines" / f"{job.run}.py").exists() for job in config.jobs)
