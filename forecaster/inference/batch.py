"""Forecasts of many series without a service, the same as it would answer: a configuration in, a Parquet file out.

They enter the ledger once all are made, before the file appears. A batch that is killed and run again enters each once.
"""

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
from forecaster.domain.config import Config
from forecaster.domain.errors import DataError, RequestError
from forecaster.domain.files import write_atomically
from forecaster.domain.series import Floats
from forecaster.inference.answers import describe_version, tolerance_of
from forecaster.inference.batch_ledger import Spool, check_name, open_ledger
from forecaster.inference.batch_series import BatchSource, as_the_service, open_histories, read_ahead
from forecaster.inference.forecasting import Forecast, Forecaster, ForecastInputs
from forecaster.inference.frames import FrameInputs, read_frame
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.registry.bands import bands
from forecaster.registry.load import Version, load_version
from forecaster.registry.predictor import ArrayPredictor
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
        futr: a file with what the model supports ahead, for the steps to come.
        horizon: steps; the trained horizon when null.
        level: intervals' coverage, 0–100; or
        quantiles: 0–1.
        without_skill: what answers where a model shows no skill; what the service is set to when not given.
        adapt_intervals: whether intervals follow what the ledger says they covered, likewise.
        ledger: whether the forecasts enter the ledger, which scores them when their actuals come.
        owner: whose forecasts they are, and whose actuals move their intervals; empty for those who ask the service
            without a key.
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
    ledger: bool = True
    owner: str = Field("", max_length=200)
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
    """The result of a batch.

    Args:
        head: by which version, by whom, with which skill and warnings; the file's metadata too.
        done: how many series were forecast.
        rows: how many rows were written.
        failed: why, by series, in words.
        entered: how many forecasts are new in the ledger; None where it was not to be written.
    """

    head: dict[str, Any]
    done: int
    rows: int
    failed: dict[str, str]
    entered: int | None


def forecast_batch(config: BatchConfig, database: str, on_series: Callable[[int, int], None]) -> Batch:
    """Forecast every series of `config.data` and write them; one that cannot be forecast leaves the others.

    Args:
        config: what is wanted.
        database: the service's, which has the ledger.
        on_series: told now and then how many series are done, and of how many.

    Raises:
        RequestError: the model does not answer what is wanted, of any series.
        DataError: the data are no series, the file cannot be written, or, where `strict`, a series failed.
        RegistryError, BundleError: the version cannot be had.
        ConfigError, DatabaseUnavailable: the ledger is to be written, or read, and cannot be.
    """
    version = load_version(config.name, config.alias, config.version, config.tracking.uri, config.cache, ArrayPredictor)
    with open_ledger(database, is_written=config.ledger, is_read=config.adapt_intervals) as engine:
        learnt: Mapping[str, Floats] = {}
        if engine and config.adapt_intervals:
            learnt = read_miscoverage_rates(engine, config.name, version.number, config.owner)
        job = _Job(config, version, learnt)
        histories = open_histories(config.data, version.predictor)
        count = len(histories.names)
        entered: int | None = None
        head = job.head | {"made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        with _parquet(config.out, head) as write, Spool(config.out.parent) as spool:
            for begin in range(0, count, config.series_at_once):
                numbers = range(begin, min(begin + config.series_at_once, count))
                pieces = list(job.read({histories.names[number]: number for number in numbers}, histories.read))
                for inputs, forecast in job.forecast(pieces):
                    write(job.frame(inputs, forecast))
                    if config.ledger:
                        spool.add(inputs, forecast)
                on_series(numbers.stop, count)
            if job.failed and config.strict:
                named = "; ".join(f"{name}: {reason}" for name, reason in [*job.failed.items()][:_NAMED])
                raise DataError(f"{len(job.failed)} of {count} series failed, and strict allows none: {named}")
            if engine and config.ledger:
                entered = spool.enter(engine, job.head, tolerance_of(job.forecaster), config.owner)
    done = count - len(job.failed)
    return Batch(head, done, done * job.forecaster.horizon, job.failed, entered)


@dataclass
class _Job:
    config: BatchConfig
    version: Version[ArrayPredictor]
    learnt: Mapping[str, Floats]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no series would be answered."""
        config, version, predictor = self.config, self.version, self.version.predictor
        horizon = predictor.manifest.horizon if config.horizon is None else config.horizon
        wanted = bands(config.level, config.quantiles)
        self.forecaster = Forecaster(predictor, horizon, wanted, config.without_skill)
        self.head = describe_version(self.forecaster, config.name, version.number, version.alias, version.run_id)
        self._ahead = read_ahead(config.futr, predictor)

    def read(
        self, numbers: Mapping[str, int], read: "Callable[[int], pd.DataFrame]"
    ) -> "Iterator[tuple[str, pd.DataFrame]]":
        """Yield the series that can be read."""
        for name, number in numbers.items():
            try:
                if self.config.ledger:
                    check_name(name)
                yield name, read(number)
            except DataError as error:
                self.failed[name] = str(error)

    def forecast(self, pieces: "list[tuple[str, pd.DataFrame]]") -> Iterator[tuple[FrameInputs, Forecast]]:
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

    def _together(self, pieces: "list[tuple[str, pd.DataFrame]]") -> tuple[FrameInputs, Forecast]:
        import pandas as pd

        together, forecaster = pd.concat([piece for _, piece in pieces]), self.forecaster
        inputs = read_frame(forecaster.predictor, together, forecaster.horizon, self._ahead, self.config.data.place)
        learnt = [self.learnt.get(unique_id) for unique_id in inputs.unique_ids]
        asked = ForecastInputs(inputs.values, inputs.times, inputs.futr_exog, learnt=learnt)
        return inputs, forecaster.predict(asked)

    def frame(self, inputs: FrameInputs, forecast: Forecast) -> "pd.DataFrame":
        """Return forecasts as rows of the file."""
        return inputs.as_frame(forecast).assign(
            is_adapted=np.repeat(forecast.is_adapted, self.forecaster.horizon),
            forecast_by=forecast.forecast_by,
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
