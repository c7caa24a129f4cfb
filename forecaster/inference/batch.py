"""Batch forecasts: forecast many series without a service, with the service's results, and write a Parquet file.

All forecasts are written to the ledger before the file appears. A batch that is killed and run again writes each
forecast to the ledger once.
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
from forecaster.inference.answers import describe_version, matching_tolerance
from forecaster.inference.batch_ledger import Spool, check_unique_id, open_ledger
from forecaster.inference.batch_series import BatchSource, open_histories, read_futr_table, service_default
from forecaster.inference.forecasting import Forecast, Forecaster, ForecastInputs
from forecaster.inference.frames import FrameInputs, read_frame
from forecaster.ledger.adaptation import read_miscoverage_rates
from forecaster.registry.bands import bands
from forecaster.registry.load import Version, load_version
from forecaster.registry.predictor import ArrayPredictor
from forecaster.training.tracking import TrackingConfig

if TYPE_CHECKING:
    import pandas as pd

# the key of the file's metadata, which hold the head of the answer as JSON
METADATA = b"forecaster"
# failures that the error of a strict batch names
_MAX_NAMED = 5


class BatchConfig(Config):
    """The series to forecast, the version that forecasts them, and the file to write.

    Args:
        name: the registered model.
        alias: the version's alias; `champion` when neither alias nor version is given.
        version: the version's number, instead of an alias.
        data: a file with a long frame, or the bar store.
        futr: a file with the model's `futr_exog` for the forecast steps.
        horizon: number of steps; the trained horizon when null.
        level: coverages of intervals, 0–100. Give levels or quantiles, not both.
        quantiles: probabilities, 0–1.
        without_skill: `model` or `baseline`: what forecasts if the model shows no skill. Default: the service's
            setting.
        adapt_intervals: whether the scores in the ledger adapt the intervals. Default: the service's setting.
        ledger: whether to write the forecasts to the ledger, where later actuals score them.
        owner: the owner of the forecasts, whose scores adapt the intervals; empty for the owner of requests without a
            key.
        strict: whether a series that cannot be forecast fails the whole batch.
        series_at_once: number of series in memory at once, with their forecasts.
        out: the Parquet file, written atomically.
        tracking: MLflow; with an empty `uri`, only the cache is used.
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
    without_skill: Literal["model", "baseline"] = service_default("without_skill", "model")
    adapt_intervals: bool = service_default("adapt_intervals", default=True)
    ledger: bool = True
    owner: str = Field("", max_length=200)
    strict: bool = False
    series_at_once: int = Field(1024, ge=1, le=1_000_000)
    out: Path
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    cache: Path = Path("mlruns/cache")

    @model_validator(mode="after")
    def _is_unambiguous(self) -> "BatchConfig":
        for first, second in (("alias", "version"), ("level", "quantiles")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise ValueError(f"{first} and {second}: give one of them, not both")
        if self.out.suffix != ".parquet":
            raise ValueError(f"out: must end with .parquet, got {self.out}")
        return self


@dataclass(frozen=True)
class Batch:
    """The result of a batch.

    Args:
        head: the version, its skill and the warnings, as in the service's answers; also in the file's metadata, which
            lacks the warnings about unknown series and missing values.
        done: number of series that were forecast.
        rows: number of rows that were written.
        failed: the reason for each series that failed, by name.
        entered: number of forecasts that are new in the ledger; None if the ledger was not written.
    """

    head: dict[str, Any]
    done: int
    rows: int
    failed: dict[str, str]
    entered: int | None


def forecast_batch(config: BatchConfig, database: str, on_progress: Callable[[int, int], None]) -> Batch:
    """Forecast every series of `config.data` and write the file; a series that fails does not stop the others.

    Args:
        config: the configuration.
        database: the URL of the service's database, which holds the ledger.
        on_progress: called with the number of series that are done and the number of all series.

    Raises:
        RequestError: the model does not support the request, whatever the series.
        DataError: the data are not series, the file cannot be written, or the batch is strict and a series failed.
        RegistryError, BundleError: the version cannot be found or loaded.
        ConfigError, DatabaseUnavailable: the ledger cannot be read or written.
    """
    version = load_version(config.name, config.alias, config.version, config.tracking.uri, config.cache, ArrayPredictor)
    with open_ledger(database, is_written=config.ledger, is_read=config.adapt_intervals) as engine:
        rates: Mapping[str, Floats] = {}
        if engine and config.adapt_intervals:
            rates = read_miscoverage_rates(engine, config.name, version.number, config.owner)
        job = _Job(config, version, rates)
        histories = open_histories(config.data, version.predictor)
        count = len(histories.names)
        entered: int | None = None
        n_missing = np.zeros(2, dtype=np.int64)
        warnings = dict.fromkeys(job.head.content["warnings"])
        head = job.head.content | {"made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        with _parquet(config.out, head) as write, Spool(config.out.parent) as spool:
            for begin in range(0, count, config.series_at_once):
                numbers = range(begin, min(begin + config.series_at_once, count))
                frames = list(job.read({histories.names[number]: number for number in numbers}, histories.read))
                for inputs, forecast in job.forecast(frames):
                    warnings |= dict.fromkeys(job.forecaster.static_warnings(inputs.unique_ids, inputs.static))
                    write(job.as_rows(inputs, forecast))
                    n_missing += np.array([np.isnan(inputs.values).sum(), inputs.values.size])
                    if config.ledger:
                        spool.add(inputs, forecast)
                on_progress(numbers.stop, count)
            if job.failed and config.strict:
                named = "; ".join(f"{name}: {reason}" for name, reason in [*job.failed.items()][:_MAX_NAMED])
                raise DataError(f"{len(job.failed)} of {count} series failed, and strict allows none: {named}")
            if engine and config.ledger:
                entered = spool.enter(engine, job.head, matching_tolerance(job.forecaster), config.owner)
    if n_missing[0]:
        warnings[f"{n_missing[0]} of {n_missing[1]} values are missing"] = None
    done = count - len(job.failed)
    return Batch(head | {"warnings": list(warnings)}, done, done * job.forecaster.horizon, job.failed, entered)


@dataclass
class _Job:
    config: BatchConfig
    version: Version[ArrayPredictor]
    miscoverage_rates: Mapping[str, Floats]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check all that does not depend on the series."""
        config, version, predictor = self.config, self.version, self.version.predictor
        horizon = predictor.manifest.horizon if config.horizon is None else config.horizon
        requested = bands(config.level, config.quantiles)
        self.forecaster = Forecaster(predictor, horizon, requested, config.without_skill)
        self.head = describe_version(self.forecaster, config.name, version.number, version.alias, version.run_id)
        self._futr_frame = read_futr_table(config.futr, predictor)

    def read(
        self, numbers: Mapping[str, int], read: "Callable[[int], pd.DataFrame]"
    ) -> "Iterator[tuple[str, pd.DataFrame]]":
        """Yield the name and the frame of each series that can be read; record why the others failed."""
        for name, number in numbers.items():
            try:
                if self.config.ledger:
                    check_unique_id(name)
                yield name, read(number)
            except DataError as error:
                self.failed[name] = str(error)

    def forecast(self, frames: "list[tuple[str, pd.DataFrame]]") -> Iterator[tuple[FrameInputs, Forecast]]:
        """Yield the forecasts of series in their order; if a batch of series fails, its halves are forecast."""
        if not frames:
            return
        try:
            yield self._forecast_batch(frames)
        except (DataError, RequestError) as error:
            middle = len(frames) // 2
            if middle == 0:
                self.failed[frames[0][0]] = str(error)
                return
            yield from self.forecast(frames[:middle])
            yield from self.forecast(frames[middle:])

    def _forecast_batch(self, frames: "list[tuple[str, pd.DataFrame]]") -> tuple[FrameInputs, Forecast]:
        import pandas as pd

        frame, forecaster, where = pd.concat([frame for _, frame in frames]), self.forecaster, self.config.data.location
        inputs = read_frame(forecaster.predictor, frame, forecaster.horizon, self._futr_frame, where)
        rates = [self.miscoverage_rates.get(unique_id) for unique_id in inputs.unique_ids]
        forecast_inputs = ForecastInputs(
            inputs.values, inputs.times, inputs.futr_exog, inputs.static, miscoverage_rates=rates
        )
        return inputs, forecaster.predict(forecast_inputs)

    def as_rows(self, inputs: FrameInputs, forecast: Forecast) -> "pd.DataFrame":
        """Return forecasts as rows of the file."""
        return inputs.as_frame(forecast).assign(
            is_adapted=np.repeat(forecast.is_adapted, self.forecaster.horizon),
            forecast_by=forecast.forecast_by,
            model=self.config.name,
            version=self.version.number,
        )


@contextmanager
def _parquet(path: Path, head: dict[str, Any]) -> "Iterator[Callable[[pd.DataFrame], None]]":
    """Yield a function that appends a frame. The file appears when the block ends, if anything was appended.

    Raises:
        DataError: the file cannot be written.
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
        raise DataError(f"{path}: cannot be written ({error}); free disk space, or set out to another file") from error
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()
