"""Every error that forecaster raises."""

from forecaster.domain.errors import *  # noqa: F403
from forecaster.domain.errors import __all__ as __all__  # noqa: PLC0414
