"""What the ledger takes: an answer with its forecasts, as arrays."""

import secrets
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats

# columns of a stored step: its time in microseconds since 1970, the mean, and each level's bounds
AT, STEP_MEAN, LOW_80, HIGH_80, LOW_95, HIGH_95 = range(6)
# of a stored step
STEP_BYTES = 6 * 8


@dataclass(frozen=True)
class Served:
    """One series' forecast as it was served.

    Args:
        unique_id: the series.
        last_value: the last one that it started from, which is the naive forecast of each step.
        steps: `(steps, 6)`, columns as above; bounds are NaN where there is no interval.
        answer: as the client got it, JSON.
        tolerance: how far from a step's time an actual may be and still be of it, microseconds.
    """

    unique_id: str
    last_value: float
    steps: Floats
    answer: str
    tolerance: int = 0


@dataclass(frozen=True)
class Entry:
    """An answer to a request.

    Args:
        request_id: as `new_request_id` makes it; forecasts are `REQUEST_ID-POSITION`.
        answered_at: microseconds since 1970.
        client: the key that asked; empty where none is needed.
        model: the model's name.
        version: its version.
        forecast_by: `model`, or the baseline that was served in its place.
        head: what the forecasts have in common, as the client got it, JSON.
        forecasts: one for each series.
        owner: whose that key is, and the forecasts are.
        is_shadow: whether nobody saw it.
        idempotency_key: by which the client may ask again, and the digest of what it asked.
        body_digest: of the request.
    """

    request_id: str
    answered_at: int
    client: str
    model: str
    version: int
    forecast_by: str
    head: str
    forecasts: tuple[Served, ...]
    owner: str = ""
    is_shadow: bool = False
    idempotency_key: str | None = None
    body_digest: str | None = None


# of steps of whole days, which a clock change makes an hour longer or shorter than the offset in a request tells
WALL_CLOCK_TOLERANCE = 2 * 60 * 60 * 1_000_000


def matches(steps_at: NDArray[np.int64], came_at: NDArray[np.int64], tolerance: int) -> NDArray[np.int64]:
    """Return for each step the number of the actual that is of it, -1 where there is none.

    Args:
        steps_at: when the steps are, microseconds since 1970, `(steps,)`.
        came_at: when the actuals are, increasing, `(n,)`, at least one.
        tolerance: how far apart they may be.
    """
    right = np.clip(np.searchsorted(came_at, steps_at), 1, max(1, len(came_at) - 1))
    candidates = np.stack([right - 1, np.minimum(right, len(came_at) - 1)])
    distances = np.abs(came_at[candidates] - steps_at)
    nearest = candidates[distances.argmin(axis=0), np.arange(len(steps_at))]
    return np.where(distances.min(axis=0) <= tolerance, nearest, -1)


class _Random:
    """The system's random bytes, asked for by the thousand: each asking costs as much as a small forecast."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = b""

    def take(self, count: int) -> bytes:
        """Return `count` bytes that nobody else gets."""
        with self._lock:
            if len(self._rest) < count:
                self._rest = secrets.token_bytes(_ASKED)
            taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


_ASKED = 4000
_RANDOM = _Random()


def new_request_id(now: int) -> str:
    """Return an id that cannot be guessed, later ones sorted behind earlier ones: 32 hexadecimal digits."""
    return f"{now // 1000:012x}{_RANDOM.take(10).hex()}"


def forecast_id(request_id: str, position: int) -> str:
    """Return the id of a request's forecast."""
    return f"{request_id}-{position}"


def pack(steps: Floats) -> bytes:
    """Return steps as bytes, the same on every machine."""
    return steps.astype("<f8").tobytes()


def unpack(packed: bytes) -> NDArray[np.float64]:
    """Return steps `(steps, 6)` from bytes."""
    return np.frombuffer(packed, dtype="<f8").reshape(-1, 6)
