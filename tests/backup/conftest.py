"""An installation to save."""

import shutil
from pathlib import Path

import pytest

from forecaster.backup.save import Locations
from tests.backup.installation import fill_ledger, move_artifacts, write_bars
from tests.conftest import TrainedModels


@pytest.fixture
def site(models: TrainedModels, tmp_path: Path) -> Locations:
    """An installation: a copy of the trained models' registry, two stored symbols, a ledger with scores, and a key."""
    folder = tmp_path / "the old place"
    uri = f"sqlite:///{folder}/mlflow.db"
    shutil.copytree(models.folder / "artifacts", folder / "artifacts")
    shutil.copy(models.folder / "mlflow.db", folder / "mlflow.db")
    move_artifacts(folder / "mlflow.db", (models.folder / "artifacts").as_uri(), (folder / "artifacts").as_uri())
    for seed, symbol in enumerate(("ABC", "brk.b")):
        write_bars(folder / "bars", symbol, seed)
    database = f"sqlite:///{folder}/service.db"
    fill_ledger(database)
    return Locations(uri, None, folder / "bars", database)
