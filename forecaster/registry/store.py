"""MLflow's model registry: versions and aliases. Only this module accesses it, and it uses no stages."""

import os
import sqlite3
import tempfile
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from forecaster.database.locks import check_reachable, exclusive_lock
from forecaster.database.uris import mask_password, sqlite_file, without_password
from forecaster.domain.errors import RegistryError, StoreUnavailable, UnknownModel
from forecaster.domain.interrupts import uninterrupted
from forecaster.registry.cache import CHAMPION, PREVIOUS
from forecaster.registry.files import check_folder, check_names

# a server that is down must be noticed within seconds: MLflow's defaults retry for minutes
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_ALIAS_TRIES = 5


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: the version of each alias, and the run of each version that is ready."""

    name: str
    aliases: dict[str, int]
    runs: dict[int, str]


class Store:
    """The registry behind a tracking URI, such as `sqlite:///mlruns/mlflow.db` or `http://mlflow:5000`."""

    def __init__(self, uri: str, *, create: bool = False) -> None:
        """Connect to a store.

        Args:
            uri: MLflow's tracking URI.
            create: whether to create a missing SQLite store.

        Raises:
            StoreUnavailable: the store is missing, unreadable or does not answer.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        self._shown = without_password(uri)
        file = sqlite_file(uri)
        if file is not None and create:
            _make_folder(file.parent)
        elif file is not None and not _has_tables(file):
            # MLflow would create an empty store, and everything would seem deleted
            raise StoreUnavailable(f"{uri}: there is no such store; train a model first or correct the tracking URI")
        import mlflow

        check_reachable(uri)
        # two processes that create the tables at the same time break the store; a server creates its own tables
        with exclusive_lock(uri, "tables") if create and not uri.startswith("http") else nullcontext():
            if file is not None and not file.exists():
                self._create_tables(file)
            self._client = self._ask(lambda: mlflow.MlflowClient(uri))
            self._ask(lambda: self._client.search_registered_models(max_results=1))

    def _create_tables(self, file: Path) -> None:
        """Create a SQLite store atomically: a kill while MLflow creates it would leave a store that never works."""
        import mlflow

        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        self._ask(lambda: mlflow.MlflowClient(f"sqlite:///{draft}").search_registered_models(max_results=1))
        draft.replace(file)

    @uninterrupted()
    def register(self, name: str, source: str, run_id: str) -> int:
        """Register the bundle that a run has logged as a version of model `name`; return the version's number.

        A run registers one version: a second call, after a kill, returns the existing version.

        Raises:
            StoreUnavailable: the store does not answer, or cannot be written.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise StoreUnavailable(
                    f"{self._shown}: cannot register '{name}' ({mask_password(error.message, self.uri)})"
                ) from error
        registered = [version for version, run in self._runs(name).items() if run == run_id]
        if registered:
            return registered[0]
        return int(self._ask(lambda: self._client.create_model_version(name, source, run_id)).version)

    def promote(self, name: str, version: int, *, instead_of: int | Literal["any"] | None = "any") -> dict[str, int]:
        """Make `version` the champion and the old champion `previous`; return the aliases as read back.

        A lock lets one process promote at a time.

        Args:
            name: the model.
            version: the new champion.
            instead_of: the champion that the version was judged against (None: there was none); `any` skips the check.

        Raises:
            UnknownModel: there is no such version.
            RegistryError: the champion is neither `instead_of` nor `version`, or an alias cannot be set.
        """
        with exclusive_lock(self.uri, name):
            model = self.find(name)
            if version not in model.runs:
                raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
            before = model.aliases.get(CHAMPION)
            if instead_of != "any" and before not in (instead_of, version):
                raise RegistryError(
                    f"model '{name}' version {version} was judged against version {instead_of}, but version {before} "
                    "has become the champion in the meantime; judge it again"
                )
            if before is not None and before != version:
                self.set_alias(name, PREVIOUS, before)
            self.set_alias(name, CHAMPION, version)
            return self.find(name).aliases

    def roll_back(self, name: str) -> dict[str, int]:
        """Swap the champion and the `previous` version; return the aliases as read back.

        Raises:
            UnknownModel: there is no such model, or it has no previous champion.
            RegistryError: an alias cannot be set.
        """
        with exclusive_lock(self.uri, name):
            aliases = self.find(name).aliases
            if aliases.get(PREVIOUS) in (None, aliases.get(CHAMPION)):
                raise UnknownModel(f"model '{name}' has no previous champion; its aliases are {aliases}")
            # the champion first: after a kill in between, the service already has the right champion
            self.set_alias(name, CHAMPION, aliases[PREVIOUS])
            self.set_alias(name, PREVIOUS, aliases[CHAMPION])
            return self.find(name).aliases

    def find(self, name: str) -> RegisteredModel:
        """Return model `name`.

        Raises:
            UnknownModel: there is no such model.
        """
        # one query by name: listing hundreds of models takes seconds
        if not self.has(name):
            raise UnknownModel(f"there is no registered model '{name}'; train it first")
        return self.read(name)

    def names(self) -> list[str]:
        """Return the names of all registered models, including names that cannot be served."""
        return [model.name for model in self._ask(lambda: _all_pages(self._client.search_registered_models))]

    def has(self, name: str) -> bool:
        """Return whether a model exists. This queries its name, because a list may be incomplete."""
        return bool(self._ask(lambda: self._client.search_registered_models(_named(name))))

    def read(self, name: str) -> RegisteredModel:
        """Return a model that is known to exist.

        Raises:
            StoreUnavailable: the model does not exist, or the store does not answer.
        """
        aliases = self._ask(lambda: self._client.get_registered_model(name).aliases)
        return RegisteredModel(name, {alias: int(number) for alias, number in aliases.items()}, self._runs(name))

    def download(self, name: str, version: int, folder: Path) -> Path:
        """Copy a version's bundle into `folder`, which must be empty; return the path of the bundle in it.

        Raises:
            BundleError: the source cannot be a bundle; it was not copied.
            StoreUnavailable: the source does not exist, or the store does not answer.
        """
        import mlflow
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        # the version's own URI, because models:/ URIs are resolved in the process-wide registry
        source = self._ask(lambda: self._client.get_model_version_download_uri(name, str(version)))
        if is_local_uri(source):
            check_folder(Path(local_file_uri_to_path(source)))
        else:
            listed = self._ask(lambda: mlflow.artifacts.list_artifacts(artifact_uri=source, tracking_uri=self.uri))
            # a bundle has no folders, and a download would include everything in them
            check_names({file.path.rpartition("/")[2] + "/" * file.is_dir: file.file_size for file in listed})
        return Path(
            self._ask(
                lambda: mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=str(folder), tracking_uri=self.uri
                )
            )
        )

    def _runs(self, name: str) -> dict[int, str]:
        """Return the run of each version of a model that is ready."""
        query = _named(name)
        versions = self._ask(
            lambda: _all_pages(lambda page_token: self._client.search_model_versions(query, page_token=page_token))
        )
        return {int(version.version): version.run_id for version in versions if version.status == "READY"}

    @uninterrupted()
    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Set an alias to a version, and read it back.

        Raises:
            RegistryError: after several attempts, the alias still has another version.
        """
        from mlflow.exceptions import MlflowException

        reason = ""
        # with concurrent writers, a write may fail with HTTP 400; only reading back proves that it succeeded
        for _ in range(_ALIAS_TRIES):
            try:
                self._client.set_registered_model_alias(name, alias, str(version))
            except MlflowException as error:
                reason = f" ({mask_password(error.message, self.uri)})"
                continue
            if int(self._ask(lambda: self._client.get_model_version_by_alias(name, alias)).version) == version:
                return
        raise RegistryError(f"model '{name}': alias '{alias}' could not be set to version {version}{reason}; try again")

    def read_artifact(self, run_id: str, path: str) -> str:
        """Return the text of a file that a run has logged.

        Raises:
            StoreUnavailable: the file does not exist, or the store does not answer.
        """
        import mlflow

        location = self._ask(lambda: self._client.get_run(run_id)).info.artifact_uri
        with tempfile.TemporaryDirectory() as folder:
            file = self._ask(
                lambda: mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{location}/{path}", dst_path=folder, tracking_uri=self.uri
                )
            )
            return Path(file).read_text(encoding="utf-8")

    def _ask(self, call: Any) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = mask_password(str(error).splitlines()[0], self.uri)
            raise StoreUnavailable(f"{self._shown}: the MLflow store does not answer ({reason}); is it up?") from error


def _has_tables(file: Path) -> bool:
    """Return whether a SQLite file has tables, without creating it; True for a damaged file, which MLflow reports."""
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    except sqlite3.DatabaseError:
        return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{folder}: the store's folder cannot be created ({error}); set tracking.uri") from error


def _named(name: str) -> str:
    """Return MLflow's filter string for a name."""
    quote = '"' if "'" in name else "'"
    return f"name={quote}{name}{quote}"


def _all_pages(search: Any) -> list[Any]:
    results: list[Any] = []
    token = None
    while True:
        page = search(page_token=token)
        results += page
        token = page.token
        if not token:
            return results
