"""Shared fixtures and helpers: a small recipe, a trained and registered model, databases, subprocesses."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

# quiet TensorFlow; must be set before it is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import settings

from forecaster.database.engine import open_engine
from forecaster.database.schema import upgrade_schema
from forecaster.domain.config import build_config
from forecaster.evaluation import choice
from forecaster.inference.predictor import Predictor, load_predictor
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder
from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.config import TrainConfig
from forecaster.training.job import RegisteredVersion, train
from tests.postgres import fresh_database, postgres_server
from tests.preloaded import COMMANDS, PreloadedProcess
from tests.stack.postgres import PROGRAMS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy import Engine

# a shell starts background jobs with SIGINT ignored, and child processes would inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# reproducible examples, and no deadline for slow machines
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# folder of real price files, which the project may not distribute
REAL_DATA = Path(os.environ.get("FORECASTER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real price files in {REAL_DATA}")


# folders with long files come first: a worker takes a whole file, and the others would wait for the last
_LONG = ("end_to_end", "training", "promotion", "search", "fleet", "backtesting", "service")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders with long files first."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)


_EMPTY = tempfile.TemporaryDirectory()


@cache
def _empty_store() -> Path:
    """Return the file of an empty MLflow store, which takes seconds to create."""
    file = Path(_EMPTY.name) / "mlflow.db"
    Store(f"sqlite:///{file}", create=True)
    return file


def empty_store(folder: Path) -> str:
    """Create an empty MLflow store in `folder` if the folder exists and has none; return its URI."""
    file = folder / "mlflow.db"
    if folder.is_dir() and not file.exists():
        shutil.copy(_empty_store(), file)
    return f"sqlite:///{file}"


def small_config(folder: Path, **changes: Any) -> TrainConfig:
    """Return a recipe that trains in seconds, with its MLflow store and checkpoints in `folder`."""
    raw: dict[str, Any] = {
        "name": "sine",
        "data": {"source": "sine", "length": 800, "seed": 3, "sines": [{"period": 12}]},
        "input_size": 24,
        "horizon": 4,
        # enough windows in the test part to show skill
        "split": {"train": 0.6, "validation": 0.1, "calibration": 0.1, "test": 0.2},
        "transforms": [{"kind": "standardize"}],
        "model": {"cell": "gru", "widths": [8]},
        "fit": {"epochs": 8, "batch_size": 32, "learning_rate": 0.02},
        "folds": 1,
        "tracking": {"uri": empty_store(folder), "checkpoints": str(folder / "checkpoints"), "diagnostics": False},
    }
    return build_config(raw | changes, TrainConfig, "test")


def trained_predictor(config: TrainConfig, cache: Path) -> Predictor:
    """Train a recipe, make its version the champion, and return its predictor with the bundle in `cache`."""
    Store(config.tracking.uri).promote(config.name, train(config).version)
    return load_predictor(config.name, tracking_uri=config.tracking.uri, cache=cache)


@dataclass(frozen=True)
class TrainedModels:
    """An MLflow store with two versions of the model `sine`, and a cache with both."""

    folder: Path
    config: TrainConfig
    versions: tuple[RegisteredVersion, ...]
    cache: Path
    # of the first version's run; MLflow caches a run's artifact location, so tests on copies of the store add to them
    artifacts: frozenset[str]

    @property
    def store(self) -> Store:
        return Store(self.config.tracking.uri)

    def predictor(self, version: int) -> Predictor:
        return Predictor(read_bundle(bundle_folder(self.cache, "sine", version)))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TrainedModels:
    """Train two versions: a many-to-one GRU, which is the champion, and a many-to-many LSTM."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("a folder with spaces")
    config = small_config(folder)
    many_to_many = small_config(
        folder,
        model={"cell": "lstm", "topology": "many_to_many", "widths": [8]},
        transforms=[{"kind": "mean_std"}],
    )
    with pytest.MonkeyPatch.context() as patch:
        # skip the choice between static and adaptive intervals, so that they adapt
        patch.setattr(choice, "MIN_HORIZONS", 10**6)
        versions = (train(config), train(many_to_many))
    logged = MlflowClient(config.tracking.uri).list_artifacts(versions[0].run_id)
    store = Store(config.tracking.uri)
    store.promote("sine", versions[0].version)
    sync(store, folder / "cache")
    return TrainedModels(folder, config, versions, folder / "cache", frozenset(file.path for file in logged))


@pytest.fixture(scope="session", autouse=True)
def _own_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the services under test from using the developer's own ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECASTER_DATABASE_URL", f"sqlite:///{tmp_path_factory.mktemp('database')}/service.db")
        # Starlette's test client sends the host `testserver`
        patch.setenv("FORECASTER_ALLOWED_HOSTS", "testserver,127.0.0.1,localhost,::1")
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URI of a database on a real Postgres server."""
    if PROGRAMS is None:
        pytest.skip("Postgres is not installed here (apt install postgresql)")
    with postgres_server() as server:
        yield server.uri


@pytest.fixture(autouse=True)
def _short_audits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the slow rehearsal of the leakage audit, except in the tests of the audit and in subprocesses."""
    if "leak" not in request.path.name:
        monkeypatch.setattr("forecaster.training.leakage.rehearse", lambda *arguments: {})


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[Engine]":
    """Yield an empty service database with all tables, on SQLite and on Postgres."""
    is_local = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/l.db" if is_local else fresh_database(request.getfixturevalue("postgres"))
    engine = open_engine(url)
    upgrade_schema(engine)
    yield engine
    engine.dispose()


@contextmanager
def listening(app: "FastAPI") -> Iterator[str]:
    """Serve `app` on a real socket in a thread; yield its URL once it has models."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not (server.started and app.state.model_store.catalog):
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


ROOT = Path(__file__).parents[1]


def start_module(module: str, *arguments: object, cwd: Path, **environment: str) -> Any:
    """Start `python -m module` in `cwd`, with this checkout on the path; return a `subprocess.Popen` or its like."""
    if module in COMMANDS and not environment:
        return PreloadedProcess(module, [str(argument) for argument in arguments], cwd)
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_module(module: str, *arguments: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module` in `cwd` and wait for it."""
    process = start_module(module, *arguments, cwd=cwd, **environment)
    try:
        # many times what a slow machine takes
        out, err = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
