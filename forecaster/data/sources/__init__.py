"""Where series come from: a source is a frozen configuration with `load() -> long frame`; a new one is one entry."""

from typing import Annotated

from pydantic import Field

from forecaster.data.sources.files import FilesSource
from forecaster.data.sources.stored import StoredSource
from forecaster.data.sources.synthetic import RandomWalkSource, SineSource

AnySource = Annotated[FilesSource | StoredSource | SineSource | RandomWalkSource, Field(discriminator="source")]

__all__ = ["AnySource", "FilesSource", "RandomWalkSource", "SineSource", "StoredSource"]
