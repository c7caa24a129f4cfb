"""Forecasts of many series without a service, the same as it would answer: a configuration in, a Parquet file out."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from forecaster.data.sources.files import FilesSource
from forecaster.database.schema import open_database
from forecaster.database.uris import sqlite_file
from forecaster.domain.config import Config
from forecaster.domain.errors import DataError, RequestError
from forecaster.domain.files import write_atomically
from forecaster.domain.series import Floats
from forecaster.inference.batch_series import BatchSource, as_the_service, open_histories, read_ahead
from forecaster.inference.forecasting import answer, forecast_by, is_replaced, tell_skill, warnings_of
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.registry.bands import Bands, bands
from forecaster.registry.frames import read_frame
from forecaster.registry.load import Version, load_version
from forecaster.training.tracking import TrackingConfig

if TYPE_CHECKING:
    import pandas as pd

# under which the file's metadata say, as JSON, by whom and of what kind the forecasts are
METADATA = b"forecaster"
_NAMED = 5


class BatchConfig(Config):
    """What is forecast, by which version, and where it is written.

    Args:
        name: the registered model.
        alias: `champion` when neither alias nor version is given.
        version: instead of an alias.
        data: a file with a long frame, or the bar store.
        futr: a file with what the model knows ahead, for the steps to come.
        horizon: steps; the trained horizon when null.
        level: intervals' coverage, 0–100; or
        quantiles: 0–1.
        without_skill: what answers where a model shows no skill; what the service is set to when not given.
        adapt_intervals: whether intervals follow what the ledger says they covered, likewise.
        owner: for whom they covered it; empty for those who ask the service without a key.
        strict: whether one series that cannot be forecast refuses them all.
        series_at_once: how many are held, with their forecasts.
        out: the Parquet file, replaced as a whole.
        tracking: where MLflow is; an empty `uri` looks in the cache alone.
        cache: the folder of verified bundles, which the service may share.
    """

    name: str
    alias: str | None = None
    version: int | None = Field(None, ge=1, lt=2**31)
    data: BatchSource
    futr: FilesSource | None = None
    horizon: int | None = Field(None, ge=1, le=1_000_000)
    level: tuple[float, ...] | None = None
    quantiles: tuple[float, ...] | None = None
    without_skill: Literal["model", "baseline"] = as_the_service("without_skill", "model")
    adapt_intervals: bool = as_the_service("adapt_intervals", default=True)
    owner: str = ""
    strict: bool = False
    series_at_once: int = Field(1024, ge=1, le=1_000_000)
    out: Path
    tracking: TrackingConfig = TrackingConfig()
    cache: Path = Path("mlruns/cache")

    @model_validator(mode="after")
    def _is_clear(self) -> "BatchConfig":
        for one, other in (("alias", "version"), ("level", "quantiles")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other}: give one of them, not both")
        if self.out.suffix != ".parquet":
            raise ValueError(f"out: must end with .parquet, got {self.out}")
        return self


@dataclass(frozen=True)
class Batch:
    """What came of a batch.

    Args:
        head: by which version, by whom, with which skill and warnings; the file's metadata too.
        done: how many series were forecast.
        rows: how many rows were written.
        failed: why, by series, in words.
    """

    head: dict[str, Any]
    done: int
    rows: int
    failed: dict[str, str]


def forecast_batch(config: BatchConfig, database: str, on_series: Callable[[int, int], None]) -> Batch:
    """Forecast every series of `config.data` and write them; one that cannot be forecast leaves the others.

    Args:
        config: what is wanted.
        database: the service's, for `adapt_intervals`.
        on_series: told now and then how many series are done, and of how many.

    Raises:
        RequestError: the model does not answer what is wanted, of any series.
        DataError: the data are no series, the file cannot be written, or, where `strict`, a series failed.
        RegistryError, BundleError: the version cannot be had.
        DatabaseUnavailable: the ledger cannot be read.
    """
    wanted = bands(config.level, config.quantiles)
    version = load_version(config.name, config.alias, config.version, config.tracking.uri, config.cache)
    job = _Job(config, version, wanted, _learnt(config, version, database))
    histories = open_histories(config.data, version.predictor)
    count = len(histories.names)
    head = job.head()
    with _parquet(config.out, head) as write:
        for begin in range(0, count, config.series_at_once):
            numbers = range(begin, min(begin + config.series_at_once, count))
            pieces = list(job.read({histories.names[number]: number for number in numbers}, histories.read))
            for frame in job.forecast(pieces):
                write(frame)
            on_series(numbers.stop, count)
        if job.failed and config.strict:
            named = "; ".join(f"{name}: {reason}" for name, reason in [*job.failed.items()][:_NAMED])
            raise DataError(f"{len(job.failed)} of {count} series failed, and strict allows none: {named}")
    return Batch(head, count - len(job.failed), (count - len(job.failed)) * job.steps, job.failed)


def _learnt(config: BatchConfig, version: Version, database: str) -> Mapping[str, Floats]:
    """Return what the ledger says of the version's intervals; nothing where there is no ledger yet."""
    file = sqlite_file(database)
    if not config.adapt_intervals or (file is not None and not file.is_file()):
        return {}
    with open_database(database) as engine:
        return read_miscoverage_rates(engine, config.name, version.number, config.owner)


@dataclass
class _Job:
    config: BatchConfig
    version: Version
    wanted: Bands
    learnt: Mapping[str, Floats]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no series would be answered."""
        predictor, manifest = self.version.predictor, self.version.predictor.manifest
        self.steps = manifest.horizon if self.config.horizon is None else self.config.horizon
        predictor.check_horizon(self.steps)
        self.is_baseline = is_replaced(predictor, self.config.without_skill)
        any_window = np.ones((1, manifest.input_size, 1))
        predictor.quantiles(any_window, np.ones((1, self.steps)), self.wanted.probabilities, self.is_baseline)
        self._ahead = read_ahead(self.config.futr, predictor)

    def head(self) -> dict[str, Any]:
        version, predictor = self.version, self.version.predictor
        return {
            "model": {
                "name": self.config.name,
                "version": version.number,
                "alias": version.alias,
                "run_id": version.run_id,
            },
            "forecast_by": forecast_by(predictor, self.is_baseline),
            "skill": tell_skill(predictor.manifest.skill),
            "warnings": warnings_of(predictor, self.steps, self.is_baseline, has_bands=bool(self.wanted.columns)),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def read(
        self, numbers: Mapping[str, int], read: "Callable[[int], pd.DataFrame]"
    ) -> "Iterator[tuple[str, pd.DataFrame]]":
        """Yield the series that can be read."""
        for name, number in numbers.items():
            try:
                yield name, read(number)
            except DataError as error:
                self.failed[name] = str(error)

    def forecast(self, pieces: "list[tuple[str, pd.DataFrame]]") -> "Iterator[pd.DataFrame]":
        """Yield forecasts of these series, in their order; those that fail are found by halving."""
        if not pieces:
            return
        try:
            yield self._together(pieces)
        except (DataError, RequestError) as error:
            middle = len(pieces) // 2
            if middle == 0:
                self.failed[pieces[0][0]] = str(error)
                return
            yield from self.forecast(pieces[:middle])
            yield from self.forecast(pieces[middle:])

    def _together(self, pieces: "list[tuple[str, pd.DataFrame]]") -> "pd.DataFrame":
        import pandas as pd

        predictor = self.version.predictor
        together = pd.concat([piece for _, piece in pieces])
        inputs = read_frame(predictor, together, self.steps, self._ahead, self.config.data.place)
        # the baseline needs no calendar that reaches far enough
        known = None if self.is_baseline else predictor.known_ahead(inputs.times, self.steps, inputs.futr_exog)
        learnt = [self.learnt.get(unique_id) for unique_id in inputs.unique_ids]
        made = answer(predictor, inputs.values, known, self.steps, self.wanted, learnt, self.is_baseline)
        frame = inputs.as_frame(made.mean, self.wanted.columns, made.spread)
        return frame.assign(
            is_adapted=np.repeat(made.is_adapted, self.steps),
            forecast_by=forecast_by(predictor, self.is_baseline),
            model=self.config.name,
            version=self.version.number,
        )


@contextmanager
def _parquet(path: Path, head: dict[str, Any]) -> "Iterator[Callable[[pd.DataFrame], None]]":
    """Yield what appends a frame; the file appears at the end, whole, unless nothing was appended.

    Raises:
        DataError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    try:
        with write_atomically(path) as draft:

            def write(frame: "pd.DataFrame") -> None:
                nonlocal writer
                table = pa.Table.from_pandas(frame, preserve_index=False)
                if writer is None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    metadata = {**(table.schema.metadata or {}), METADATA: json.dumps(head).encode()}
                    writer = pq.ParquetWriter(draft, table.schema.with_metadata(metadata))
                writer.write_table(table.cast(writer.schema))

            yield write
            if writer is not None:
                writer.close()
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); free space, or set out") from error
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()
