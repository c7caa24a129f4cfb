"""The configuration of a schedule: jobs, their triggers and their retries."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from forecaster.domain.config import Config, read_yaml
from forecaster.domain.errors import ConfigError
from forecaster.domain.yaml_text import parse_yaml
from forecaster.scheduling.triggers import Trigger

Pipeline = Literal[
    "fetch", "synthesize", "train", "retrain", "fleet", "backtest", "contest", "promote", "score", "forget"
]  # fmt: skip
# pipelines that take arguments; the others take a configuration file
WITH_ARGUMENTS = ("score", "forget")
RETRAIN = "retrain"
# a century; beyond it clocks and calendars overflow
_MAX_DAYS = 36_500
_MAX_SECONDS = 1e9
Argument = Annotated[str, Field(coerce_numbers_to_str=True)]


class RetryConfig(Config):
    """How often a failed run is retried.

    Args:
        attempts: in total, including the first.
        first_seconds: the delay before the first retry.
        factor: the factor by which the delay grows with each retry.
        most_seconds: the longest delay.
    """

    attempts: int = Field(3, ge=1, le=100)
    first_seconds: float = Field(60, ge=0, le=_MAX_SECONDS)
    factor: float = Field(2, ge=1, le=100)
    most_seconds: float = Field(3600, ge=0, le=_MAX_SECONDS)

    def delay_seconds(self, failures: int) -> float:
        """Return the delay after a number of failures, at least 1."""
        # limited, so that the power does not overflow
        steps = min(failures - 1, 64)
        return min(self.first_seconds * self.factor**steps, self.most_seconds)


class JobConfig(Config):
    """A pipeline and when it runs.

    Args:
        name: the job's name in logs, metrics and the database.
        run: the pipeline.
        config: its configuration file, if it takes one.
        overrides: changes of the configuration, as with `--set`.
        arguments: the command line of a pipeline that takes no configuration file.
        when: the trigger; null if the job runs only on request, by evidence or `--once`.
        retry: the schedule's when null.
        timeout_minutes: the process is terminated after this time, and has failed; never when null.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,99}$")
    run: Pipeline
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    arguments: tuple[Argument, ...] = ()
    when: Trigger | None
    retry: RetryConfig | None = None
    timeout_minutes: float | None = Field(None, gt=0, le=_MAX_SECONDS)

    @field_validator("overrides")
    @classmethod
    def _are_overrides(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        for override in overrides:
            if not override.partition("=")[1] or override.startswith(("=", "-")):
                raise ValueError(f"'{override}': write dotted.key=value")
        return overrides

    @field_validator("arguments")
    @classmethod
    def _name_no_database(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        if any(argument.startswith("--d") for argument in arguments):
            # every user who can list processes would see its password
            raise ValueError("--database: a job uses the schedule's database; leave it out")
        return arguments

    @model_validator(mode="after")
    def _fits_pipeline(self) -> Self:
        if self.run in WITH_ARGUMENTS:
            if self.config or self.overrides:
                raise ValueError(f"config, overrides: {self.run} takes neither; use arguments")
            return self
        if self.arguments:
            raise ValueError(f"arguments: {self.run} takes none; use overrides")
        if self.config is None:
            raise ValueError(f"config: missing; {self.run} needs one")
        _read(self.config)
        if self.run == RETRAIN and self.model is None:
            raise ValueError(f"config: {self.config} has no train.name, which retraining requests refer to")
        return self

    @property
    def command(self) -> list[str]:
        """The pipeline's name and its arguments: the command line after `python -m pipelines.`."""
        arguments = [str(self.config)] if self.config else list(self.arguments)
        return [self.run, *arguments, *(["--set", *self.overrides] if self.overrides else [])]

    @cached_property
    def model(self) -> str | None:
        """The model that a retraining job trains, as its file was when it was first read; None for other jobs."""
        if self.run != RETRAIN or self.config is None:
            return None
        assignments = (override.partition("=") for override in self.overrides)
        names = [value for key, _, value in assignments if key == "train.name"]
        if names:
            return str(parse_yaml(names[-1], "--set train.name"))
        train = _read(self.config).get("train")
        name = train.get("name") if isinstance(train, dict) else None
        return None if name is None else str(name)


class MetricsConfig(Config):
    """The address of `/metrics`; beyond loopback a token is required."""

    host: str = "127.0.0.1"
    port: int = Field(9109, ge=0, le=65535)


class ScheduleConfig(Config):
    """The jobs, and the settings that they share.

    Args:
        folder: the folder of locks and of the output of each job's last run; not shared between machines.
        catch_up_hours: a missed due time or retry older than this is not run.
        poll_seconds: the interval between checks for due runs.
        lost_after_seconds: a run of another machine is lost after this time without a heartbeat.
        at_once: how many jobs run at the same time.
        keep_days: how long ended runs are kept.
        follow_evidence: whether to run the retrainings that the service requests.
        retry: for jobs that set none.
        metrics: where to serve metrics; nowhere when null.
    """

    jobs: tuple[JobConfig, ...] = Field(min_length=1)
    folder: Path = Path("mlruns/schedule")
    catch_up_hours: float = Field(24, gt=0, le=_MAX_DAYS * 24)
    poll_seconds: float = Field(5, ge=0.05, le=600)
    lost_after_seconds: float = Field(600, ge=1, le=_MAX_SECONDS)
    at_once: int = Field(2, ge=1, le=64)
    keep_days: float = Field(365, gt=0, le=_MAX_DAYS)
    follow_evidence: bool = True
    retry: RetryConfig = RetryConfig()
    metrics: MetricsConfig | None = None

    @model_validator(mode="after")
    def _names_and_models_are_unique(self) -> Self:
        for verb, values in (
            ("are named", [job.name for job in self.jobs]),
            ("retrain", [job.model for job in self.jobs if job.model is not None]),
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise ValueError(f"jobs: two {verb} '{repeated[0]}'")
        return self

    def retry_for(self, job: JobConfig) -> RetryConfig:
        """Return the retry settings of a job."""
        return job.retry or self.retry

    def retrained_by(self) -> dict[str, str]:
        """Return the name of the job that retrains each model, by model."""
        return {job.model: job.name for job in self.jobs if job.model is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except ConfigError as error:
        # pydantic turns a ValueError into a mistake of this job
        raise ValueError(f"config: {error}") from error
