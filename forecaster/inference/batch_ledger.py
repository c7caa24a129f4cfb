"""The ledger of a batch: its forecasts are spooled to a file, and written to the ledger once all have been made."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Engine

from forecaster.database.schema import open_database
from forecaster.database.uris import sqlite_file
from forecaster.domain.errors import ConfigError, DatabaseUnavailable, SeriesError
from forecaster.domain.levels import LEVELS
from forecaster.domain.missing import last_observed
from forecaster.inference.answers import Answer, Head, as_json, describe_forecasts, ledger_entry, scored_steps
from forecaster.inference.forecasting import Forecast
from forecaster.inference.frames import FrameInputs
from forecaster.ledger.entries import pack_steps, unpack_steps
from forecaster.ledger.writer import write

# forecasts in one transaction
BATCH_SIZE = 1000
# characters of a series' name
_MAX_NAME_LENGTH = 200


@contextmanager
def open_ledger(database: str, *, is_written: bool, is_read: bool) -> Iterator[Engine | None]:
    """Yield the engine of the database that holds the ledger; None if there is nothing to read or write.

    Args:
        database: the URL of the database.
        is_written: whether forecasts will be written; a missing SQLite database is then created.
        is_read: whether adaptive intervals will be read; a missing SQLite database has none.

    Raises:
        ConfigError, DatabaseUnavailable: the database cannot be opened.
    """
    file = sqlite_file(database)
    if not is_written and (not is_read or (file is not None and not file.is_file())):
        yield None
        return
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(open_database(database))
        except (ConfigError, DatabaseUnavailable) as error:
            if not is_written:
                raise
            raise type(error)(
                f"ledger: {error}; name the service's database with --database or FORECASTER_DATABASE_URL, or set "
                "ledger: false to forecast without it"
            ) from error
        yield engine


def check_unique_id(unique_id: str) -> None:
    """Raise SeriesError unless the ledger can store a series of this name."""
    if not 1 <= len(unique_id) <= _MAX_NAME_LENGTH or "\0" in unique_id:
        raise SeriesError(
            f"unique_id: the name has {len(unique_id)} characters, but the ledger stores names of 1 to "
            f"{_MAX_NAME_LENGTH} characters without NUL; rename the series, or set ledger: false"
        )


class Spool:
    """A temporary file of forecasts that will be written to the ledger, so that a large batch takes little memory."""

    def __init__(self, folder: Path) -> None:
        """Choose the file's folder; the file is created when the context is entered."""
        self._folder = folder

    def __enter__(self) -> "Spool":
        """Create the file.

        Raises:
            OSError: the file cannot be created.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, which deletes it."""
        self._file.close()

    def add(self, inputs: FrameInputs, forecast: Forecast) -> None:
        """Append forecasts, with the digests of their inputs.

        Raises:
            OSError: the file cannot be written.
        """
        times = inputs.forecast_times()
        steps = scored_steps(forecast, times)
        last_values = last_observed(inputs.values[:, :, 0])[:, 0]
        for row, described in enumerate(describe_forecasts(forecast, inputs.unique_ids, times)):
            last_value = float(last_values[row])
            line = as_json([described, last_value, pack_steps(steps[row]).hex(), inputs.digest(row)])
            self._file.write(line + b"\n")

    def enter(self, engine: Engine, head: Head, tolerance: int, owner: str) -> int:
        """Write the forecasts that the ledger lacks; return their number.

        Each forecast becomes a request. Its idempotency key is a digest of the version, the inputs and the forecast, so
        that a batch that is killed and run again writes no forecast twice.

        Args:
            engine: the engine of the database that holds the ledger.
            head: the result of `describe_version`.
            tolerance: the result of `matching_tolerance`.
            owner: the owner of the forecasts.

        Raises:
            DatabaseUnavailable: the database does not answer; a part of the forecasts may have been written.
        """
        self._file.seek(0)
        version = [head.model, head.version]
        n_new = 0
        while lines := list(islice(self._file, BATCH_SIZE)):
            entries = []
            for described, last_value, packed, digest in map(json.loads, lines):
                steps = unpack_steps(bytes.fromhex(packed), LEVELS)[None]
                key = sha256(to_json([*version, digest, described])).hexdigest()
                answer = Answer(head, [described], np.array([last_value]), steps, tolerance)
                entries.append(ledger_entry(answer, owner=owner, idempotency_key=f"batch-{key}", body_digest=digest))
            n_new += sum(write(engine, entries))
        return n_new
