"""A registry that tests may damage: a copy of the trained models' registry."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from forecaster.domain.manifest import MANIFEST
from forecaster.registry.cache import CHAMPION, bundle_folder
from forecaster.registry.store import Store
from tests.conftest import TrainedModels
from tests.registry.bundle_faults import Damage, edit


@dataclass
class Registry:
    """An MLflow store in its own folder, with a SQLite database and bundles."""

    folder: Path
    good: Path
    run_id: str
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def file(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def store(self) -> Store:
        return Store(self.uri)

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self.uri)

    def bundle(self, name: str, damage: Damage | None = None) -> Path:
        """Create a bundle of model `name`, damaged if requested, and return its folder."""
        folder = Path(shutil.copytree(self.good, self.folder / f"bundle-{next(self._numbers)}"))
        edit(MANIFEST, lambda manifest: manifest.update(name=name))(folder)
        if damage:
            damage(folder)
        return folder

    def add(self, name: str, source: Path | str, alias: str | None = CHAMPION) -> int:
        """Register a version of model `name`, and the model if needed; return the version's number."""
        if name not in self.store.names():
            self.client.create_registered_model(name)
        version = int(self.client.create_model_version(name, str(source), self.run_id).version)
        if alias:
            self.client.set_registered_model_alias(name, alias, str(version))
        return version

    def execute(self, statement: str, *values: object) -> None:
        """Execute a statement that MLflow itself would not."""
        with closing(sqlite3.connect(self.file)) as connection:
            connection.execute(statement, values)
            connection.commit()


def copy_registry(models: TrainedModels, folder: Path) -> Registry:
    """Return a copy of the trained models' registry in a new folder."""
    folder.mkdir()
    shutil.copy(models.folder / "mlflow.db", folder)
    return Registry(folder, bundle_folder(models.cache, "sine", 1), models.versions[0].run_id)
