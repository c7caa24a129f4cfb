"""An installation to save."""

import shutil
from pathlib import Path

import pytest

from forecaster.lifecycle.backup import Places
from tests.conftest import House
from tests.lifecycle.kept import fill_ledger, move_artifacts, write_bars


@pytest.fixture
def site(house: House, tmp_path: Path) -> Places:
    """An installation of its own: the house's registry, two stored symbols, a ledger with scores and a key."""
    folder = tmp_path / "the old place"
    uri = f"sqlite:///{folder}/mlflow.db"
    shutil.copytree(house.folder / "artifacts", folder / "artifacts")
    shutil.copy(house.folder / "mlflow.db", folder / "mlflow.db")
    move_artifacts(folder / "mlflow.db", (house.folder / "artifacts").as_uri(), (folder / "artifacts").as_uri())
    for seed, symbol in enumerate(("ABC", "brk.b")):
        write_bars(folder / "bars", symbol, seed)
    database = f"sqlite:///{folder}/service.db"
    fill_ledger(database)
    return Places(uri, None, folder / "bars", database)
