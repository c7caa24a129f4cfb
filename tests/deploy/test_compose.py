"""docker-compose.yml: valid by the Compose specification, hardened, consistent with the service's settings."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header
from starlette.testclient import TestClient

from deploy.make_secrets import make_secrets
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT
from tests.deploy.checkout import owner_only_checkout, unreadable
from tests.stack import postgres
from tests.stack.compose import ComposeError, Service, read_compose, seconds
from tests.stack.paths import StackPaths

FILES = sorted(path for path in (ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("*.yaml")))
RAW = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    return read_compose(ROOT / "docker-compose.yml", {})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_matches_the_specification(file: Path) -> None:
    # The specification's own schema comes with check-jsonschema.
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    raw = yaml.safe_load(file.read_text())
    assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(raw)] == []
    next(iter(raw["services"].values()))["restarts"] = "always"
    assert not validator.is_valid(raw)


def test_compose_accepts_the_file() -> None:
    command = next(filter(_is_compose, (["docker", "compose"], ["docker-compose"])), None)
    if command is None:
        pytest.skip("Docker Compose 2 is not installed here")
    done = subprocess.run(
        [*command, "--profile", "*", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def _is_compose(command: list[str]) -> bool:
    """Return whether a command is Docker Compose 2 or later; version 1 does not know the specification."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stdout.startswith("1.")


@pytest.mark.parametrize("name", RAW["services"])
def test_every_container_is_hardened(name: str) -> None:
    raw: dict[str, Any] = RAW["services"][name]
    assert raw["read_only"] is True
    assert raw["cap_drop"] == ["ALL"]
    assert "cap_add" not in raw
    assert "privileged" not in raw
    assert raw["security_opt"] == ["no-new-privileges:true"]
    assert int(raw["user"].partition(":")[0]) > 0
    assert {"mem_limit", "pids_limit", "restart"} <= raw.keys()
    # Published ports are reached from this machine only.
    assert all(port.startswith("127.0.0.1:") for port in raw.get("ports", []))
    assert "inside" in raw["networks"]
    # A tag names a version; test_pins.py checks the digest.
    assert re.search(r":(v?\d+\.\d+|\$\{FORECASTER_VERSION:-\d+\.\d+\.\d+\}$)", raw["image"])


def test_internal_network_has_no_route_out() -> None:
    assert RAW["networks"]["inside"] == {"internal": True}
    assert RAW["services"]["postgres"]["networks"] == ["inside"]
    assert {name for name, raw in RAW["services"].items() if "ports" in raw} <= {"service", "mlflow", "grafana"}


def test_the_file_has_no_secret_and_make_secrets_creates_each(tmp_path: Path) -> None:
    created = {file.name for file in make_secrets(tmp_path / "secrets")}
    # pipelines.keys creates metrics_key.
    assert created == RAW["secrets"].keys() - {"metrics_key"}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    text = (tmp_path / "secrets" / "database_url").read_text()
    assert make_secrets(tmp_path / "secrets") == []
    assert (tmp_path / "secrets" / "database_url").read_text() == text
    for name, raw in RAW["services"].items():
        for key in raw.get("environment", {}):
            assert key.endswith(("_FILE", "__FILE")) or not re.search("PASSWORD|SECRET|DATABASE_URL|STORE_URI", key), (
                name
            )


def test_containers_can_read_their_mounts_under_any_umask(tmp_path: Path) -> None:
    checkout = owner_only_checkout(tmp_path)
    secrets = checkout / "deploy" / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "metrics_key").touch(mode=0o600)
    services = read_compose(checkout / "docker-compose.yml", {})
    mounted = {path for service in services.values() for path in (*service.files.values(), *service.secrets.values())}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.make_secrets"],
        cwd=checkout, umask=0o077, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for source in mounted for path in unreadable(source)] == []
    assert secrets.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(postgres.account() is None, reason="Postgres has its own account only if root starts the stack")
def test_postgres_account_can_write_its_volume_under_any_umask(services: dict[str, Service]) -> None:
    service = replace(services["postgres"], secrets={})
    # Other accounts cannot enter pytest's folders.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        paths, umask = StackPaths(ROOT, Path(folder), services), os.umask(0o077)
        try:
            paths.prepare(service, postgres.account())
        finally:
            os.umask(umask)
        done = subprocess.run(["test", "-w", paths.volume("database")], user=postgres.account(), check=False)
    assert done.returncode == 0


def test_variables_of_the_service_are_settings_with_their_defaults(services: dict[str, Service]) -> None:
    raw = RAW["services"]["service"]["environment"]
    fields = {f"FORECASTER_{name.upper()}": field for name, field in Settings.model_fields.items()}
    ours = {name for name in raw if name.startswith("FORECASTER_")}
    assert {name.removesuffix("_FILE") for name in ours} <= fields.keys()
    for name in ours:
        if str(raw[name]).startswith(f"${{{name}:-"):
            default = type(fields[name].default)(services["service"].environment[name])
            assert default == fields[name].default, name


def test_configured_hosts_and_ports_do_not_replace_those_of_the_stack() -> None:
    chosen = {"FORECASTER_ALLOWED_HOSTS": "forecast.example.com", "MLFLOW_PORT": "5001"}
    services = read_compose(ROOT / "docker-compose.yml", chosen)
    service, check = services["service"], services["service"].check
    (watch, _) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert check is not None
    allowed = service.environment["FORECASTER_ALLOWED_HOSTS"]
    app = create_app(Settings(tracking_uri="", host=service.environment["FORECASTER_HOST"], allowed_hosts=allowed))
    requested = [
        urlsplit(check.command[-1]).netloc,
        *watch["static_configs"][0]["targets"],
        "forecast.example.com",
        "elsewhere",
    ]
    client = TestClient(app)
    statuses = [client.get("/health/live", headers={"host": host}).status_code for host in requested]
    assert statuses == [200, 200, 200, 400]
    (hosts,) = [word for word in services["mlflow"].command if word.startswith("--allowed-hosts=")]
    known = hosts.partition("=")[2].split(",")
    tried = ["mlflow:5000", "127.0.0.1:5001", "localhost:5001", "elsewhere:5001"]
    assert [is_allowed_host_header(known, host) for host in tried] == [True, True, True, False]


def test_batch_forecasts_have_the_services_settings() -> None:
    chosen = {"WITHOUT_SKILL": "baseline", "ADAPT_INTERVALS": "false", "STALE_AFTER_HOURS": "48"}
    variables = {f"FORECASTER_{name}": value for name, value in chosen.items()}
    services = read_compose(ROOT / "docker-compose.yml", variables)
    for name in ("service", "scheduler"):
        assert variables.items() <= services[name].environment.items(), name


def test_promotions_have_the_services_limits_on_trials() -> None:
    variables = {"FORECASTER_TRIAL_SECONDS": "120", "FORECASTER_TRIAL_MEMORY_MB": "2048"}
    services = read_compose(ROOT / "docker-compose.yml", variables)
    for name in ("service", "scheduler"):
        assert variables.items() <= services[name].environment.items(), name


def test_the_limits_on_requests_can_be_set(services: dict[str, Service]) -> None:
    bounds = {"MAX_CONNECTIONS", "MAX_VALUES", "MAX_BYTES_IN_FLIGHT", "WRITE_TIMEOUT_SECONDS"}
    assert {f"FORECASTER_{name}" for name in bounds} <= services["service"].environment.keys()


def test_the_entrypoint_reads_secrets_and_names_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://a:$b`c`@d/e\n")
    show = [sys.executable, "-c", "import os; print(sorted(i for i in os.environ.items() if i[0][:5] == 'FOREC'))"]
    entrypoint = ROOT / "deploy" / "entrypoint.sh"
    environment = {"PATH": "/usr/bin:/bin", "FORECASTER_DATABASE_URL_FILE": str(tmp_path / "url"), "SSL_CERT_FILE": "x"}
    done = subprocess.run([entrypoint, *show], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "[('FORECASTER_DATABASE_URL', 'postgresql://a:$b`c`@d/e')]\n"
    environment["FORECASTER_DATABASE_URL_FILE"] = "/nowhere"
    done = subprocess.run([entrypoint, *show], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: FORECASTER_DATABASE_URL_FILE: /nowhere cannot be read" in done.stderr


def test_services_are_sorted_by_dependency(services: dict[str, Service]) -> None:
    names = list(services)
    assert names.index("postgres") < names.index("migrate") < names.index("service")
    assert services["service"].needs == {"postgres": "service_healthy", "migrate": "service_completed_successfully"}
    assert services["service"].ports == (8000,)
    assert services["service"].check is not None
    assert services["mlflow"].needs["migrate-mlflow"] == "service_completed_successfully"
    assert {services[name].restart for name in ("migrate", "migrate-mlflow")} == {"no"}
    assert seconds("1m30s") == 90
    assert services["mlflow"].grace_seconds == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restarts": "always"}, r"service: \['restarts'\] would be ignored here"),
        ({"stop_grace_period": "soon"}, "'soon' is not a duration"),
        ({"depends_on": {"nobody": {"condition": "service_started"}}}, r"\['service'\] need each other"),
        ({"volumes": ["~/etc:/etc"]}, "volume '~/etc:/etc'"),
        ({"image": "forecaster:${NO_SUCH}"}, "the variable NO_SUCH is not set"),
        ({"healthcheck": {"test": ["CMD-SHELL", "true"]}}, "starts with 'CMD-SHELL'"),
    ],
)
def test_unsupported_values_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    raw = {"services": {"service": {"image": "postgres:17", "command": "x"} | change}}
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ComposeError, match=message):
        read_compose(tmp_path / "compose.yml", {})


def test_a_mounted_folder_replaces_the_images(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "schedule.yaml").touch()
    services = read_compose(ROOT / "docker-compose.yml", {"FORECASTER_CONFIGS": str(tmp_path / "mine")})
    paths = StackPaths(ROOT, tmp_path / "state", services)
    secretless = replace(services["scheduler"], secrets={})
    # A second time beside the running service.
    for _ in range(2):
        paths.prepare(secretless, None)
        app = tmp_path / "state" / "scheduler" / "app"
        assert [path.name for path in (app / "pipelines" / "configs").iterdir()] == ["schedule.yaml"]
        assert (app / "pipelines" / "retrain.py").samefile(ROOT / "pipelines" / "retrain.py")
        assert (app / "mlruns" / "bars").samefile(paths.volume("bars"))
    assert (ROOT / "pipelines" / "configs" / "stock.yaml").exists()


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        (
            "postgresql://forecaster:1234@postgres:5432/forecaster",
            "postgresql://forecaster:1234@{postgres}:5432/forecaster",
        ),
        ("postgresql://mlflow:5000@postgres:5432/mlflow", "postgresql://mlflow:5000@{postgres}:5432/mlflow"),
        ("http://mlflow:5000", "http://{mlflow}:5000"),
        ("127.0.0.1,localhost,service", "{service},{service},service"),
        ("0.0.0.0", "{service}"),
        ("/app/mlruns/cache", "{state}/volumes/cache"),
        ("/app/mlruns/cache-2", "{app}/mlruns/cache-2"),
        ("/run/secrets/database_url", "{state}/service/secrets/database_url"),
        ("/var/tmp", "/var/tmp"),
    ],
)
def test_container_paths_and_hosts_are_translated(
    tmp_path: Path, services: dict[str, Service], text: str, translated: str
) -> None:
    paths = StackPaths(ROOT, tmp_path, services)
    named = {**paths.addresses, "state": str(tmp_path), "app": str(tmp_path / "service" / "app")}
    assert paths.translated(text, services["service"]) == translated.format(**named)
    assert len(set(paths.addresses.values())) == len(services)
    assert all(address.startswith("127.") for address in paths.addresses.values())
