"""What a schedule declares: jobs, when they are due, and how often one that fails is tried again."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from forecaster.domain.config import Config, read_yaml
from forecaster.domain.errors import ConfigError
from forecaster.domain.yaml_text import parse_yaml
from forecaster.scheduling.when import When

Pipeline = Literal[
    "fetch", "synthesize", "train", "retrain", "fleet", "backtest", "contest", "promote", "score", "forget"
]  # fmt: skip
# the others take a file
WITH_ARGUMENTS = ("score", "forget")
RETRAIN = "retrain"
# a century; beyond it clocks and calendars overflow
_MOST_DAYS = 36_500
_MOST_SECONDS = 1e9
Argument = Annotated[str, Field(coerce_numbers_to_str=True)]


class RetryConfig(Config):
    """How often a run is attempted in all, and the seconds between: `first_seconds`, times `factor` each time."""

    attempts: int = Field(3, ge=1, le=100)
    first_seconds: float = Field(60, ge=0, le=_MOST_SECONDS)
    factor: float = Field(2, ge=1, le=100)
    most_seconds: float = Field(3600, ge=0, le=_MOST_SECONDS)

    def delay_seconds(self, failures: int) -> float:
        """Return how long to wait after so many failures, at least one."""
        # so that a power of many failures does not overflow
        steps = min(failures - 1, 64)
        return min(self.first_seconds * self.factor**steps, self.most_seconds)


class JobConfig(Config):
    """A pipeline and when it is run.

    Args:
        name: what it is called in logs, metrics and the database.
        run: the pipeline.
        config: its file, for those that take one.
        overrides: what `--set` changes of it.
        arguments: the command line of a pipeline that takes no file.
        when: null: only when it is asked for, by evidence or `--once`.
        retry: null: as the schedule says.
        timeout_minutes: after which it is ended, and has failed; null: never.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,99}$")
    run: Pipeline
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    arguments: tuple[Argument, ...] = ()
    when: When | None
    retry: RetryConfig | None = None
    timeout_minutes: float | None = Field(None, gt=0, le=_MOST_SECONDS)

    @field_validator("overrides")
    @classmethod
    def _are_overrides(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        for one in overrides:
            if not one.partition("=")[1] or one.startswith(("=", "-")):
                raise ValueError(f"'{one}': write dotted.key=value")
        return overrides

    @field_validator("arguments")
    @classmethod
    def _name_no_database(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        if any(one.startswith("--d") for one in arguments):
            # whoever lists processes would see its password
            raise ValueError("--database: a job has the schedule's; leave it out")
        return arguments

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.run in WITH_ARGUMENTS:
            if self.config or self.overrides:
                raise ValueError(f"config, overrides: {self.run} takes none; use arguments")
            return self
        if self.arguments:
            raise ValueError(f"arguments: {self.run} takes none; use overrides")
        if self.config is None:
            raise ValueError(f"config: missing; {self.run} needs one")
        _read(self.config)
        if self.run == RETRAIN and self.model is None:
            raise ValueError(f"config: {self.config} has no train.name, by which a retraining is asked for")
        return self

    @property
    def command(self) -> list[str]:
        """Return what follows `python -m pipelines.`, and the arguments."""
        given = [str(self.config)] if self.config else list(self.arguments)
        return [self.run, *given, *(["--set", *self.overrides] if self.overrides else [])]

    @cached_property
    def model(self) -> str | None:
        """Return the model that a retraining is of, as its file was when the schedule was read; None for another."""
        if self.run != RETRAIN or self.config is None:
            return None
        set_name = [value for key, _, value in (one.partition("=") for one in self.overrides) if key == "train.name"]
        if set_name:
            return str(parse_yaml(set_name[-1], "--set train.name"))
        train = _read(self.config).get("train")
        name = train.get("name") if isinstance(train, dict) else None
        return None if name is None else str(name)


class MetricsConfig(Config):
    """Where Prometheus may ask; beyond loopback only with a token."""

    host: str = "127.0.0.1"
    port: int = Field(9109, ge=0, le=65535)


class ScheduleConfig(Config):
    """The jobs, and what holds for all of them.

    Args:
        folder: locks, and what each job's last run said; not shared between machines.
        catch_up_hours: a run that was missed, or broken off, for longer is not made up for.
        poll_seconds: how often the database is asked for what is owed.
        lost_after_seconds: of silence, after which the run of a scheduler elsewhere is taken to be lost.
        at_once: most jobs that run at the same time.
        keep_days: how long ended runs are kept.
        follow_evidence: whether retrainings that the service asks for are run.
        retry: of jobs that do not say.
        metrics: null: none.
    """

    jobs: tuple[JobConfig, ...] = Field(min_length=1)
    folder: Path = Path("mlruns/schedule")
    catch_up_hours: float = Field(24, gt=0, le=_MOST_DAYS * 24)
    poll_seconds: float = Field(5, ge=0.05, le=600)
    lost_after_seconds: float = Field(600, ge=1, le=_MOST_SECONDS)
    at_once: int = Field(2, ge=1, le=64)
    keep_days: float = Field(365, gt=0, le=_MOST_DAYS)
    follow_evidence: bool = True
    retry: RetryConfig = RetryConfig()
    metrics: MetricsConfig | None = None

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        for what, values in (
            ("are named", [job.name for job in self.jobs]),
            ("retrain", [job.model for job in self.jobs if job.model is not None]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"jobs: two {what} '{twice[0]}'")
        return self

    def retry_of(self, job: JobConfig) -> RetryConfig:
        """Return how often a job is tried again."""
        return job.retry or self.retry

    def retrained_by(self) -> dict[str, str]:
        """Return the job of each model that one retrains."""
        return {job.model: job.name for job in self.jobs if job.model is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except ConfigError as error:
        # which pydantic takes for a mistake of this job
        raise ValueError(f"config: {error}") from error
