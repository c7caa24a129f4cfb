"""A batch's forecasts on their way into the ledger: they wait in a file until all are made, and each enters it once."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Engine

from forecaster.database.schema import open_database
from forecaster.database.uris import sqlite_file
from forecaster.domain.errors import ConfigError, DatabaseUnavailable, SeriesError
from forecaster.inference.answers import Answer, as_entry, describe_series, scored_steps
from forecaster.inference.forecasting import Forecast
from forecaster.inference.frames import FrameInputs
from forecaster.ledger.entries import pack_steps, unpack_steps
from forecaster.ledger.writer import write

# forecasts in one transaction
_AT_ONCE = 1000
# of a series' name, in characters
_LONGEST = 200


@contextmanager
def open_ledger(database: str, *, is_written: bool, is_read: bool) -> Iterator[Engine | None]:
    """Yield the database that has the ledger; None where it is not written, and there is nothing to read.

    Args:
        database: its URL.
        is_written: whether forecasts enter it; then it is made where there is none.
        is_read: whether intervals follow it; a SQLite file that does not exist has nothing to tell.

    Raises:
        ConfigError, DatabaseUnavailable: it cannot be open_database.
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


def check_name(unique_id: str) -> None:
    """Raise SeriesError unless the ledger takes a series of this name."""
    if not 1 <= len(unique_id) <= _LONGEST or "\0" in unique_id:
        raise SeriesError(
            f"unique_id: the ledger takes names of 1 to {_LONGEST} characters without NUL, this one has "
            f"{len(unique_id)}; rename the series, or set ledger: false"
        )


class Spool:
    """Forecasts that wait to enter the ledger, in a file without a name: memory holds few of a large batch."""

    def __init__(self, folder: Path) -> None:
        """Prepare; the file will be in `folder`."""
        self._folder = folder

    def __enter__(self) -> "Spool":
        """Open the file.

        Raises:
            OSError: it cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and it is gone."""
        self._file.close()

    def add(self, inputs: FrameInputs, forecast: Forecast) -> None:
        """Let forecasts wait, with what they were made from.

        Raises:
            OSError: the file cannot be written.
        """
        times = inputs.forecast_times()
        steps = scored_steps(forecast, times)
        for row, described in enumerate(describe_series(forecast, inputs.unique_ids, times)):
            last_value = float(inputs.values[row, -1, 0])
            line = to_json([described, last_value, pack_steps(steps[row]).hex(), inputs.digest(row)])
            self._file.write(line + b"\n")

    def enter(self, engine: Engine, head: dict[str, Any], tolerance: int, owner: str) -> int:
        """Write all that wait to the ledger, but for those that it has; return how many are new.

        Each is a request of its own. Its idempotency key is a digest of the version, the inputs and the forecast, so a
        batch that is killed and run again enters none twice.

        Args:
            engine: the ledger's.
            head: what the forecasts have in common, as `describe_version` returns it.
            tolerance: as `tolerance_of` returns it.
            owner: whose they are.

        Raises:
            DatabaseUnavailable: the database does not answer; some may have been written.
        """
        self._file.seek(0)
        version = [head["model"]["name"], head["model"]["version"]]
        n_new = 0
        while lines := list(islice(self._file, _AT_ONCE)):
            entries = []
            for described, last_value, packed, digest in map(json.loads, lines):
                steps = unpack_steps(bytes.fromhex(packed))[None]
                key = sha256(to_json([*version, digest, described])).hexdigest()
                answer = Answer(head, [described], np.array([last_value]), steps, tolerance)
                entries.append(as_entry(answer, owner=owner, idempotency_key=f"batch-{key}", body_digest=digest))
            n_new += sum(write(engine, entries))
        return n_new
