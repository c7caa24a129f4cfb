"""Sources of series and of bars.

A source of series is a configuration with `load()`, which returns a long frame. To add a source, add it to `AnySource`.
"""

from typing import Annotated

from pydantic import Field

from forecaster.data.sources.files import FilesSource
from forecaster.data.sources.stored import StoredSource
from forecaster.data.sources.synthetic import RandomWalkSource, SineSource

AnySource = Annotated[FilesSource | StoredSource | SineSource | RandomWalkSource, Field(discriminator="source")]

__all__ = ["AnySource", "FilesSource", "RandomWalkSource", "SineSource", "StoredSource"]
