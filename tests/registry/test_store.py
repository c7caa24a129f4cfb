"""The registry: promotions, rollbacks, and errors for a store that is missing, damaged, read-only or down."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecaster.domain.errors import StoreUnavailable, UnknownModel
from forecaster.registry.store import Store
from forecaster.training.job import train
from tests.conftest import TrainedModels, small_config

NOBODY = 65534


@pytest.fixture
def store(models: TrainedModels) -> Iterator[Store]:
    yield models.store
    models.store.promote("sine", 2)
    models.store.promote("sine", 1)


def test_promotion_makes_the_old_champion_previous(store: Store) -> None:
    store.promote("sine", 2)
    assert store.find("sine").aliases == {"champion": 2, "previous": 1}
    # a repeated promotion keeps the previous champion
    store.promote("sine", 2)
    assert store.find("sine").aliases == {"champion": 2, "previous": 1}


def test_interrupted_rollback_has_restored_the_champion(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.promote("sine", 2)
    set_alias = Store.set_alias

    def set_alias_and_stop(store: Store, name: str, alias: str, version: int) -> None:
        set_alias(store, name, alias, version)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "set_alias", set_alias_and_stop)
        store.roll_back("sine")
    assert store.find("sine").aliases["champion"] == 1
    with pytest.raises(UnknownModel, match="no previous champion"):
        store.roll_back("sine")


def test_run_registers_only_one_version(models: TrainedModels) -> None:
    run = models.versions[1].run_id
    assert models.store.register("sine", f"{models.folder}/artifacts/{run}/artifacts/model", run) == 2
    assert set(models.store.find("sine").runs) == {1, 2}


def test_promotion_of_an_unknown_version_is_refused(store: Store) -> None:
    with pytest.raises(UnknownModel, match=r"has no version 9; it has \[1, 2\]"):
        store.promote("sine", 9)
    with pytest.raises(UnknownModel, match="no registered model 'nobody'"):
        store.promote("nobody", 1)


def test_reading_does_not_create_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no such store; train a model first"):
        Store(f"sqlite:///{tmp_path}/absent.db")
    assert not list(tmp_path.iterdir())


def test_error_names_a_damaged_store(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, however long it may be" * 100)
    with pytest.raises(StoreUnavailable, match=r"mlflow\.db: the MLflow store does not answer"):
        Store(f"sqlite:///{tmp_path}/mlflow.db")


def test_error_names_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="folder cannot be created"):
        train(small_config(tmp_path / "file"))


def test_server_that_is_down_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnavailable, match="does not answer"):
            Store(f"http://127.0.0.1:{taken.getsockname()[1]}")


@pytest.fixture
def read_only_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a store that this process may only read; root becomes nobody for this."""
    folder = tmp_path_factory.mktemp("read-only")
    Store(f"sqlite:///{folder}/mlflow.db", create=True)
    (folder / "checkpoints").mkdir(mode=0o777)
    (folder / "checkpoints").chmod(0o777)
    above = [path for path in folder.parents if path.owner() == folder.owner() and path.stat().st_mode & 0o777 == 0o700]
    for path in above:
        path.chmod(0o755)
    (folder / "mlflow.db").chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.chmod(0o755)
    for path in above:
        path.chmod(0o700)


def test_training_with_a_read_only_store_registers_nothing(read_only_store: Path, models: TrainedModels) -> None:
    with pytest.raises(StoreUnavailable, match=r"mlflow\.db"):
        train(small_config(read_only_store))
    assert Store(f"sqlite:///{read_only_store}/mlflow.db").names() == []


def test_error_of_a_server_that_is_down_hides_the_password_in_its_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreUnavailable) as caught:
        Store("http://user:hunter2@127.0.0.1:9")
    assert "user:***@127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
