"""docker-compose.yml: what the Compose specification allows, and what containers of ours must not be able to do."""

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
from tests.deploy.checkout import closed, closed_checkout
from tests.stack import postgres
from tests.stack.compose import ComposeError, Service, read_compose, seconds
from tests.stack.paths import Places

FILES = sorted(path for path in (ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("*.yaml")))
RAW = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    return read_compose(ROOT / "docker-compose.yml", {})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_is_what_the_specification_allows(file: Path) -> None:
    # the specification's own schema, which check-jsonschema ships
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    raw = yaml.safe_load(file.read_text())
    assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(raw)] == []
    next(iter(raw["services"].values()))["restarts"] = "always"
    assert not validator.is_valid(raw)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed here")
def test_compose_itself_takes_it() -> None:
    done = subprocess.run(
        ["docker-compose", "--profile", "*", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", RAW["services"])
def test_no_container_can_do_more_than_it_must(name: str) -> None:
    raw: dict[str, Any] = RAW["services"][name]
    assert raw["read_only"] is True
    assert raw["cap_drop"] == ["ALL"]
    assert "cap_add" not in raw
    assert "privileged" not in raw
    assert raw["security_opt"] == ["no-new-privileges:true"]
    assert int(raw["user"].partition(":")[0]) > 0
    assert {"mem_limit", "pids_limit", "restart"} <= raw.keys()
    # the loopback interface's, and what is published can be reached from nowhere else
    assert all(port.startswith("127.0.0.1:") for port in raw.get("ports", []))
    assert "inside" in raw["networks"]
    # an image's tag says which version, not which day
    assert re.search(r":(v?\d+\.\d+|\$\{FORECASTER_VERSION:-\d+\.\d+\.\d+\}$)", raw["image"])


def test_only_the_inside_is_shared_and_it_leads_nowhere() -> None:
    assert RAW["networks"]["inside"] == {"internal": True}
    assert RAW["services"]["postgres"]["networks"] == ["inside"]
    assert {name for name, raw in RAW["services"].items() if "ports" in raw} <= {"service", "mlflow", "grafana"}


def test_no_secret_is_in_the_file_and_each_is_made(tmp_path: Path) -> None:
    made = {file.name for file in make_secrets(tmp_path / "secrets")}
    # by the service, once it runs
    assert made == RAW["secrets"].keys() - {"metrics_key"}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    text = (tmp_path / "secrets" / "database_url").read_text()
    assert make_secrets(tmp_path / "secrets") == []
    assert (tmp_path / "secrets" / "database_url").read_text() == text
    for name, raw in RAW["services"].items():
        for key in raw.get("environment", {}):
            assert key.endswith(("_FILE", "__FILE")) or not re.search("PASSWORD|SECRET|DATABASE_URL|STORE_URI", key), (
                name
            )


def test_containers_can_read_what_is_mounted_whatever_the_checkouts_umask(tmp_path: Path) -> None:
    checkout = closed_checkout(tmp_path)
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
    assert [path for one in mounted for path in closed(one)] == []
    assert secrets.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(postgres.account() is None, reason="only where root starts the stack has Postgres another account")
def test_the_local_stacks_postgres_gets_to_its_volume_whatever_the_umask(services: dict[str, Service]) -> None:
    service = replace(services["postgres"], secrets={})
    # pytest's folders let nobody else in
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        places, before = Places(ROOT, Path(folder), services), os.umask(0o077)
        try:
            places.make(service, postgres.account())
        finally:
            os.umask(before)
        done = subprocess.run(["test", "-w", places.volume("database")], user=postgres.account(), check=False)
    assert done.returncode == 0


def test_what_can_be_set_is_a_setting_with_its_default(services: dict[str, Service]) -> None:
    raw = RAW["services"]["service"]["environment"]
    fields = {f"FORECASTER_{name.upper()}": field for name, field in Settings.model_fields.items()}
    ours = {name for name in raw if name.startswith("FORECASTER_")}
    assert {name.removesuffix("_FILE") for name in ours} <= fields.keys()
    for name in ours:
        if str(raw[name]).startswith(f"${{{name}:-"):
            default = type(fields[name].default)(services["service"].environment[name])
            assert default == fields[name].default, name


def test_other_hosts_and_ports_leave_the_stack_its_own() -> None:
    chosen = {"FORECASTER_ALLOWED_HOSTS": "forecast.example.com", "MLFLOW_PORT": "5001"}
    services = read_compose(ROOT / "docker-compose.yml", chosen)
    service, check = services["service"], services["service"].check
    (watch, _) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert check is not None
    allowed = service.environment["FORECASTER_ALLOWED_HOSTS"]
    app = create_app(Settings(tracking_uri="", host=service.environment["FORECASTER_HOST"], allowed_hosts=allowed))
    asked = [
        urlsplit(check.command[-1]).netloc,
        *watch["static_configs"][0]["targets"],
        "forecast.example.com",
        "elsewhere",
    ]
    client = TestClient(app)
    statuses = [client.get("/health/live", headers={"host": host}).status_code for host in asked]
    assert statuses == [200, 200, 200, 400]
    (hosts,) = [word for word in services["mlflow"].command if word.startswith("--allowed-hosts=")]
    known = hosts.partition("=")[2].split(",")
    tried = ["mlflow:5000", "127.0.0.1:5001", "localhost:5001", "elsewhere:5001"]
    assert [is_allowed_host_header(known, host) for host in tried] == [True, True, True, False]


def test_batches_are_told_what_the_service_is_told() -> None:
    chosen = {"WITHOUT_SKILL": "baseline", "ADAPT_INTERVALS": "false", "STALE_AFTER_HOURS": "48"}
    variables = {f"FORECASTER_{name}": value for name, value in chosen.items()}
    services = read_compose(ROOT / "docker-compose.yml", variables)
    for name in ("service", "scheduler"):
        assert variables.items() <= services[name].environment.items(), name


def test_promotions_try_a_version_under_the_limits_of_the_service() -> None:
    variables = {"FORECASTER_TRIAL_SECONDS": "120", "FORECASTER_TRIAL_MEMORY_MB": "2048"}
    services = read_compose(ROOT / "docker-compose.yml", variables)
    for name in ("service", "scheduler"):
        assert variables.items() <= services[name].environment.items(), name


def test_the_bounds_of_requests_can_be_set(services: dict[str, Service]) -> None:
    bounds = {"MAX_CONNECTIONS", "MAX_VALUES", "MAX_BYTES_IN_FLIGHT", "WRITE_TIMEOUT_SECONDS"}
    assert {f"FORECASTER_{name}" for name in bounds} <= services["service"].environment.keys()


def test_the_entrypoint_reads_secrets_and_says_which_it_cannot(tmp_path: Path) -> None:
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


def test_services_are_read_in_order_with_what_they_need(services: dict[str, Service]) -> None:
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
    ("change", "said"),
    [
        ({"restarts": "always"}, r"service: \['restarts'\] would be ignored here"),
        ({"stop_grace_period": "soon"}, "'soon' is no duration"),
        ({"depends_on": {"nobody": {"condition": "service_started"}}}, r"\['service'\] wait for each other"),
        ({"volumes": ["~/etc:/etc"]}, "volume '~/etc:/etc'"),
        ({"image": "forecaster:${NO_SUCH}"}, "the variable NO_SUCH is not set"),
        ({"healthcheck": {"test": ["CMD-SHELL", "true"]}}, "begins with 'CMD-SHELL'"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    raw = {"services": {"service": {"image": "postgres:17", "command": "x"} | change}}
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ComposeError, match=said):
        read_compose(tmp_path / "compose.yml", {})


def test_a_folder_of_ones_own_is_laid_into_the_image(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "schedule.yaml").touch()
    services = read_compose(ROOT / "docker-compose.yml", {"FORECASTER_CONFIGS": str(tmp_path / "mine")})
    places = Places(ROOT, tmp_path / "state", services)
    secretless = replace(services["scheduler"], secrets={})
    # and again, beside the one that runs
    for _ in range(2):
        places.make(secretless, None)
        app = tmp_path / "state" / "scheduler" / "app"
        assert [path.name for path in (app / "pipelines" / "configs").iterdir()] == ["schedule.yaml"]
        assert (app / "pipelines" / "retrain.py").samefile(ROOT / "pipelines" / "retrain.py")
        assert (app / "mlruns" / "bars").samefile(places.volume("bars"))
    assert (ROOT / "pipelines" / "configs" / "stock.yaml").exists()


@pytest.mark.parametrize(
    ("text", "meant"),
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
def test_what_is_a_containers_becomes_this_machines(
    tmp_path: Path, services: dict[str, Service], text: str, meant: str
) -> None:
    places = Places(ROOT, tmp_path, services)
    named = {**places.addresses, "state": str(tmp_path), "app": str(tmp_path / "service" / "app")}
    assert places.translated(text, services["service"]) == meant.format(**named)
    assert len(set(places.addresses.values())) == len(services)
    assert all(address.startswith("127.") for address in places.addresses.values())
