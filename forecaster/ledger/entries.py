"""Entries of the ledger: an answered request with its forecasts, as arrays."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.levels import LEVELS
from forecaster.domain.series import Floats

# columns of a stored step: its time in microseconds since 1970, the mean, and from FIRST_BOUND on each level's bounds
AT, STEP_MEAN, FIRST_BOUND = range(3)


@dataclass(frozen=True)
class ServedForecast:
    """The forecast of one series, as it was served.

    Args:
        unique_id: the series.
        last_value: the last value of the history, which is the naive forecast of each step.
        steps: `(steps, 2 + 2 × levels)`: the time, the mean, and each level's lower and upper bound in turn; bounds are
            NaN if there is no interval.
        answer: the JSON that the client received.
        tolerance: an actual within this many microseconds of a step's time belongs to the step.
        levels: the scored levels, 0–100, each once, in the order of their bounds in `steps`.

    Raises:
        ValueError: `steps` has not two columns for each level.
    """

    unique_id: str
    last_value: float
    steps: Floats
    answer: str
    tolerance: int = 0
    levels: tuple[float, ...] = LEVELS

    def __post_init__(self) -> None:
        """Check the number of columns."""
        if self.steps.shape[1] != _n_columns(self.levels):
            raise ValueError(
                f"steps: {self.steps.shape[1]} columns, but the levels {self.levels} need {_n_columns(self.levels)}"
            )


@dataclass(frozen=True)
class Entry:
    """An answered request.

    Args:
        request_id: the result of `new_request_id`.
        answered_at: microseconds since 1970.
        client: the id of the API key; empty if the service needs none.
        model: the model's name.
        version: the number of the version.
        forecast_by: `model`, or the baseline that was served instead.
        head: the part of the answer that all forecasts share, the JSON that the client received.
        forecasts: one for each series.
        owner: the key's owner, who also owns the forecasts.
        is_shadow: whether a challenger made the forecasts in the shadow, unseen by the client.
        idempotency_key: the client's key for repeating the request; None if it sent none.
        body_digest: the digest of the request's body, to notice another request under the same key.
    """

    request_id: str
    answered_at: int
    client: str
    model: str
    version: int
    forecast_by: str
    head: str
    forecasts: tuple[ServedForecast, ...]
    owner: str = ""
    is_shadow: bool = False
    idempotency_key: str | None = None
    body_digest: str | None = None


# for steps of whole days: after a clock change, their times differ from those that the request's UTC offset implies
WALL_CLOCK_TOLERANCE = 2 * 60 * 60 * 1_000_000


def match_actuals(steps_at: NDArray[np.int64], actuals_at: NDArray[np.int64], tolerance: int) -> NDArray[np.int64]:
    """Return for each step the index of the nearest actual; -1 if none is within the tolerance.

    Args:
        steps_at: the times of the steps, microseconds since 1970, `(steps,)`.
        actuals_at: the times of the actuals, ascending, `(n,)`, at least one.
        tolerance: the largest distance, microseconds.
    """
    right = np.clip(np.searchsorted(actuals_at, steps_at), 1, max(1, len(actuals_at) - 1))
    candidates = np.stack([right - 1, np.minimum(right, len(actuals_at) - 1)])
    distances = np.abs(actuals_at[candidates] - steps_at)
    nearest = candidates[distances.argmin(axis=0), np.arange(len(steps_at))]
    return np.where(distances.min(axis=0) <= tolerance, nearest, -1)


class _RandomBytes:
    """The system's random bytes, read in blocks: a read for each request would cost as much as a small forecast."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = b""

    def take(self, count: int) -> bytes:
        """Return `count` bytes that no other call returns."""
        with self._lock:
            if len(self._rest) < count:
                self._rest = secrets.token_bytes(_BLOCK_BYTES)
            taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


_BLOCK_BYTES = 4000
_RANDOM_BYTES = _RandomBytes()


def new_request_id(now: int) -> str:
    """Return an id of 32 hexadecimal digits that cannot be guessed; ids sort by time.

    Args:
        now: microseconds since 1970.
    """
    return f"{now // 1000:012x}{_RANDOM_BYTES.take(10).hex()}"


def forecast_id(request_id: str, position: int) -> str:
    """Return the id of the forecast at a position, from 0, of a request."""
    return f"{request_id}-{position}"


def pack_steps(steps: Floats) -> bytes:
    """Return steps `(steps, 2 + 2 × levels)` as bytes, in an order that does not depend on the machine."""
    return steps.astype("<f8", copy=False).tobytes()


def unpack_steps(packed: bytes, levels: Sequence[float]) -> NDArray[np.float64]:
    """Return the steps `(steps, 2 + 2 × levels)` that `pack_steps` packed."""
    return np.frombuffer(packed, dtype="<f8").reshape(-1, _n_columns(levels))


def count_steps(n_bytes: int, levels: Sequence[float]) -> int:
    """Return how many steps `pack_steps` packed into so many bytes."""
    return n_bytes // (8 * _n_columns(levels))


def _n_columns(levels: Sequence[float]) -> int:
    return FIRST_BOUND + 2 * len(levels)
