"""MLflow's registry, and the only file that talks to it: aliases and versions, never stages."""

import os
import sqlite3
import tempfile
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from forecaster.database.locks import check_reachable, exclusive_lock
from forecaster.database.uris import sqlite_file, without_password
from forecaster.domain.errors import RegistryError, StoreUnavailable, UnknownModel
from forecaster.registry.cache import CHAMPION, PREVIOUS
from forecaster.registry.files import check_folder, check_names

# a server that is down must be noticed in seconds: MLflow's own defaults retry for minutes
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_ALIAS_TRIES = 5


@dataclass(frozen=True)
class RegisteredModel:
    """A model as the registry has it: its aliases, and the run of each version that is ready."""

    name: str
    aliases: dict[str, int]
    runs: dict[int, str]


class Store:
    """The registry behind a tracking URI, such as `sqlite:///mlruns/mlflow.db` or `http://mlflow:5000`."""

    def __init__(self, uri: str, *, create: bool = False) -> None:
        """Connect.

        Args:
            uri: MLflow's tracking URI.
            create: whether a local SQLite store that does not exist is made.

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
            # MLflow would make one, and its emptiness would be believed
            raise StoreUnavailable(f"{uri}: there is no such store; train a model first or correct the tracking URI")
        import mlflow

        check_reachable(uri)
        # two that make a store's tables together break it; a server has made its own
        with exclusive_lock(uri, "tables") if create and not uri.startswith("http") else nullcontext():
            if file is not None and not file.exists():
                self._make_tables(file)
            self._client = self._ask(lambda: mlflow.MlflowClient(uri))
            self._ask(lambda: self._client.search_registered_models(max_results=1))

    def _make_tables(self, file: Path) -> None:
        """Make a SQLite store whole or not at all: MLflow's own way, killed halfway, leaves one that never works."""
        import mlflow

        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        self._ask(lambda: mlflow.MlflowClient(f"sqlite:///{draft}").search_registered_models(max_results=1))
        draft.replace(file)

    def register(self, name: str, source: str, run_id: str) -> int:
        """Make a version of model `name` from the bundle that a run has logged; return its number.

        A run makes one version: asked again, after a kill, this returns the one that it made.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise StoreUnavailable(f"{self._shown}: cannot register '{name}' ({error.message})") from error
        made = [version for version, run in self._runs(name).items() if run == run_id]
        if made:
            return made[0]
        return int(self._ask(lambda: self._client.create_model_version(name, source, run_id)).version)

    def promote(self, name: str, version: int, *, instead_of: int | Literal["any"] | None = "any") -> dict[str, int]:
        """Make `version` the champion and keep the champion before it as `previous`; return the aliases as read back.

        One process at a time: a second one waits, and finds the first one's champion.

        Args:
            name: the model.
            version: the coming champion.
            instead_of: the champion that the version was judged beside, None if there was none.

        Raises:
            UnknownModel: there is no such version.
            RegistryError: the champion is another than `instead_of`, or what was written is not what is read back.
        """
        with exclusive_lock(self.uri, name):
            model = self.find(name)
            if version not in model.runs:
                raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
            before = model.aliases.get(CHAMPION)
            if instead_of != "any" and before not in (instead_of, version):
                raise RegistryError(
                    f"model '{name}' version {version} was judged beside version {instead_of}, and version {before} "
                    "has become the champion meanwhile; judge it again"
                )
            if before is not None and before != version:
                self.set_alias(name, PREVIOUS, before)
            self.set_alias(name, CHAMPION, version)
            return self.find(name).aliases

    def roll_back(self, name: str) -> dict[str, int]:
        """Make the `previous` version the champion again, and the champion `previous`; return the aliases as read back.

        Raises:
            UnknownModel: there is no such model, or it has no other champion before this one.
        """
        with exclusive_lock(self.uri, name):
            aliases = self.find(name).aliases
            if aliases.get(PREVIOUS) in (None, aliases.get(CHAMPION)):
                raise UnknownModel(f"model '{name}' has no previous champion; its aliases are {aliases}")
            # first what it is for: killed in between, the service has the good one
            self.set_alias(name, CHAMPION, aliases[PREVIOUS])
            self.set_alias(name, PREVIOUS, aliases[CHAMPION])
            return self.find(name).aliases

    def find(self, name: str) -> RegisteredModel:
        """Return model `name`.

        Raises:
            UnknownModel: there is no such model.
        """
        # where there are hundreds, a look at all of them takes seconds
        if not self.has(name):
            raise UnknownModel(f"there is no registered model '{name}'; train it first")
        return self.read(name)

    def names(self) -> list[str]:
        """Return the name of every registered model, whatever it is."""
        return [model.name for model in self._ask(lambda: _all_pages(self._client.search_registered_models))]

    def has(self, name: str) -> bool:
        """Say whether there is a model of this name, asked for by itself: a list may have been cut short."""
        return bool(self._ask(lambda: self._client.search_registered_models(_named(name))))

    def read(self, name: str) -> RegisteredModel:
        """Return a model that is there; StoreUnavailable where it is not."""
        aliases = self._ask(lambda: self._client.get_registered_model(name).aliases)
        return RegisteredModel(name, {alias: int(number) for alias, number in aliases.items()}, self._runs(name))

    def download(self, name: str, version: int, folder: Path) -> Path:
        """Copy a version's bundle into `folder`, which exists and is empty; return where in it the bundle lies.

        Raises:
            BundleError: what is there cannot be a bundle, and was not copied.
            StoreUnavailable: it is not there, or the store does not answer.
        """
        import mlflow
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        # the version's own place, because models:/ URIs are looked up in the process-wide registry
        source = self._ask(lambda: self._client.get_model_version_download_uri(name, str(version)))
        if is_local_uri(source):
            check_folder(Path(local_file_uri_to_path(source)))
        else:
            listed = self._ask(lambda: mlflow.artifacts.list_artifacts(artifact_uri=source, tracking_uri=self.uri))
            # a bundle has no folders, and a download would take all that is in them
            check_names({one.path.rpartition("/")[2] + "/" * one.is_dir: one.file_size for one in listed})
        return Path(
            self._ask(
                lambda: mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=str(folder), tracking_uri=self.uri
                )
            )
        )

    def _runs(self, name: str) -> dict[int, str]:
        """Return the run of each version of a model that is ready."""
        wanted = _named(name)
        versions = self._ask(
            lambda: _all_pages(lambda page_token: self._client.search_model_versions(wanted, page_token=page_token))
        )
        return {int(version.version): version.run_id for version in versions if version.status == "READY"}

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias to a version.

        Raises:
            RegistryError: what was written is not what is read back.
        """
        from mlflow.exceptions import MlflowException

        reason = ""
        # concurrent writers make single writes fail with HTTP 400; reading back is the only proof
        for _ in range(_ALIAS_TRIES):
            try:
                self._client.set_registered_model_alias(name, alias, str(version))
            except MlflowException as error:
                reason = f" ({error.message})"
                continue
            if int(self._ask(lambda: self._client.get_model_version_by_alias(name, alias)).version) == version:
                return
        raise RegistryError(f"model '{name}': alias '{alias}' could not be set to version {version}{reason}; try again")

    def read_artifact(self, run_id: str, path: str) -> str:
        """Return the text of a file that a run has logged.

        Raises:
            StoreUnavailable: it is not there, or the store does not answer.
        """
        import mlflow

        place = self._ask(lambda: self._client.get_run(run_id)).info.artifact_uri
        with tempfile.TemporaryDirectory() as folder:
            file = self._ask(
                lambda: mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{place}/{path}", dst_path=folder, tracking_uri=self.uri
                )
            )
            return Path(file).read_text(encoding="utf-8")

    def _ask(self, call: Any) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise StoreUnavailable(f"{self._shown}: the MLflow store does not answer ({reason}); is it up?") from error


def _has_tables(file: Path) -> bool:
    """Say whether a SQLite file holds anything, without making or changing it; a broken one is named by MLflow."""
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
        raise StoreUnavailable(f"{folder}: the store's folder cannot be made ({error}); set tracking.uri") from error


def _named(name: str) -> str:
    """Return MLflow's filter for a name."""
    quote = '"' if "'" in name else "'"
    return f"name={quote}{name}{quote}"


def _all_pages(search: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
