"""The service's Python client: `Client` and `AsyncClient`, frames in and frames out.

It needs no model, registry or training library, only the service's address.
"""

from forecaster.client.client import AsyncClient, Client
from forecaster.client.retries import Retries
from forecaster.domain.errors import (
    BadAnswer,
    ClientError,
    NotAllowed,
    RequestRefused,
    ServiceUnavailable,
    TooManyRequests,
)

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Client",
    "ClientError",
    "NotAllowed",
    "RequestRefused",
    "Retries",
    "ServiceUnavailable",
    "TooManyRequests",
]
