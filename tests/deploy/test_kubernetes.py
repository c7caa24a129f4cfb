"""deploy/kubernetes: manifests match the API's schema, pods are hardened, and settings match the code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import pytest
import yaml
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT
from tests.deploy.image import stages
from tests.deploy.manifests import (
    CONTAINERS,
    FOLDER,
    KUSTOMIZATION,
    PODS,
    SETTINGS,
    Pod,
    each_container,
    each_pod,
    mebibytes,
    named,
    of_kind,
    selected,
)

# the oldest with `podFailurePolicy` as stable, and the newest that the schemas know
VERSIONS = ("1.31", "1.37")
NOT_APPLIED = {"kustomization.yaml", "secret.example.yaml"}
SECRETS = "/run/secrets/forecaster"


def _validate(version: str, *files: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "kubernetes_validate",
        "--strict",
        "--kubernetes-version",
        version,
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_match_the_schemas_of_the_api(version: str, tmp_path: Path) -> None:
    files = sorted(file for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml")
    done = _validate(version, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    misspelt = (FOLDER / "service.yaml").read_text().replace("readinessProbe", "readynessProbe")
    (tmp_path / "misspelt.yaml").write_text(misspelt)
    assert _validate(version, tmp_path / "misspelt.yaml").returncode != 0


def test_every_manifest_is_applied() -> None:
    assert sorted({file.name for file in FOLDER.glob("*.yaml")} - NOT_APPLIED) == sorted(KUSTOMIZATION["resources"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_renders_them(version: str, tmp_path: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "rendered.yaml").write_text(done.stdout)
    validated = _validate(version, tmp_path / "rendered.yaml")
    assert validated.returncode == 0, validated.stdout + validated.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"].get("namespace", "forecaster") for one in rendered} == {"forecaster"}
    (settings,) = [one for one in rendered if one["kind"] == "ConfigMap"]
    assert settings["data"] == SETTINGS
    # each container reads the settings that were generated
    assert done.stdout.count(f"name: {settings['metadata']['name']}") == 1 + len(CONTAINERS)


@each_pod
def test_a_pod_meets_the_restricted_standard(pod: Pod) -> None:
    [account] = {value for name, value in stages()["application"] if name == "USER"}
    user, _, group = account.partition(":")
    context = pod.spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (int(user), int(group), int(group))
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
    kinds = {kind for volume in pod.volumes.values() for kind in volume if kind != "name"}
    assert kinds <= {"secret", "emptyDir", "persistentVolumeClaim"}
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod.volumes.values() if "emptyDir" in volume)
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_container
def test_each_container_has_minimal_privileges(pod: Pod, container: dict[str, Any]) -> None:
    # and no setting that overrides the pod's
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} <= pod.volumes.keys()
    # HOME of the image
    assert "emptyDir" in pod.volumes[mounts["/tmp"]["name"]]
    assert mounts[SECRETS]["readOnly"] is True


@each_container
def test_a_container_has_resources(pod: Pod, container: dict[str, Any]) -> None:
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests.keys() == limits.keys() == {"cpu", "memory"}
    assert mebibytes(requests["memory"]) <= mebibytes(limits["memory"])


def test_every_setting_is_read_by_the_service_or_a_pipeline() -> None:
    sources = [file.read_text() for name in ("forecaster", "pipelines") for file in (ROOT / name).rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"[\"'](FORECASTER_[A-Z_]+)[\"']", text)}
    read |= {f"FORECASTER_{name.upper()}" for name in Settings.model_fields}
    names = {name.removesuffix("_FILE") for name in SETTINGS}
    assert {name for name in names if name.startswith("FORECASTER_")} <= read
    others = {name for name in names if not name.startswith("FORECASTER_")}
    assert {name for name in others if not hasattr(mlflow.environment_variables, name)} == set()
    for _, container in CONTAINERS:
        # no container sets its own variables
        assert "env" not in container
        assert container["envFrom"] == [{"configMapRef": {"name": "forecaster-settings"}}]
    assert KUSTOMIZATION["configMapGenerator"] == [{"name": "forecaster-settings", "envs": ["settings.env"]}]


def test_the_service_accepts_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert not settings.is_loopback
    (port,) = PODS["forecaster"].ports.values()
    assert settings.port == port
    grace = PODS["forecaster"].spec["terminationGracePeriodSeconds"]
    assert grace > settings.drain_seconds + settings.stop_seconds
    (container,) = PODS["forecaster"].containers
    # the service takes up to 512 MiB; Kubernetes ends the whole container where a trial takes too much
    assert mebibytes(container["resources"]["limits"]["memory"]) >= 512 + settings.trial_memory_mb


@each_pod
def test_secrets_are_mounted_as_files_and_have_no_values_in_the_manifests(pod: Pod) -> None:
    example = yaml.safe_load((FOLDER / "secret.example.yaml").read_text())
    files = {value for name, value in SETTINGS.items() if name.endswith("_FILE")}
    assert files == {f"{SECRETS}/{key}" for key in example["stringData"]}
    assert set(example["stringData"].values()) == {""}
    assert not of_kind("Secret")
    (secret,) = [volume["secret"] for volume in pod.volumes.values() if "secret" in volume]
    assert secret == {"secretName": example["metadata"]["name"], "defaultMode": 0o440}
    # a Service of this name would set FORECASTER_PORT in each pod
    assert pod.spec["enableServiceLinks"] is False


def test_each_selector_selects_the_right_pods() -> None:
    (service,), (budget,) = of_kind("Service"), of_kind("PodDisruptionBudget")
    deployment = named("Deployment", "forecaster")
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors = [{"matchLabels": service["spec"]["selector"]}, budget["spec"]["selector"]]
    selectors += [deployment["spec"]["selector"], *(one["labelSelector"] for one in spread)]
    for selector in selectors:
        assert selected(selector) == {"forecaster"}
    policies = {one["metadata"]["name"]: selected(one["spec"]["podSelector"]) for one in of_kind("NetworkPolicy")}
    assert policies == {
        "default-deny": {*PODS},
        "requests": {"forecaster"},
        "backends": {*PODS},
        "prices": {"forecaster-retrain", "forecaster-score"},
    }


def test_every_port_exists() -> None:
    (service,) = of_kind("Service")
    pod = PODS["forecaster"]
    (port,) = service["spec"]["ports"]
    assert pod.ports[port["targetPort"]] == port["port"]
    (container,) = pod.containers
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} <= pod.ports.keys()
    requests = named("NetworkPolicy", "requests")["spec"]["ingress"]
    assert {port["port"] for rule in requests for port in rule["ports"]} == pod.ports.keys()
    # as the Secret's example writes the addresses of Postgres and MLflow
    addresses = re.findall(r"HOST:(\d+)", (FOLDER / "secret.example.yaml").read_text())
    names, backends = named("NetworkPolicy", "backends")["spec"]["egress"]
    assert sorted(port["port"] for port in backends["ports"]) == sorted(map(int, addresses))
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_network_policies_allow_only_named_peers_and_ports() -> None:
    deny = named("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind("NetworkPolicy"):
        rules = {"from": policy["spec"].get("ingress", []), "to": policy["spec"].get("egress", [])}
        for peers, ruled in rules.items():
            # a rule without peers, or without ports, allows all of them
            assert all(rule[peers] and rule["ports"] for rule in ruled)
            assert all(_is_narrow(peer) for rule in ruled for peer in rule[peers])
    (rule,) = named("NetworkPolicy", "prices")["spec"]["egress"]
    (peer,) = rule["to"]
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(peer["ipBlock"]["except"])
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]


def _is_narrow(peer: dict[str, Any]) -> bool:
    """Return whether a peer of a network policy is a block of addresses, or selects pods or namespaces by labels."""
    return bool(peer) and all(selector.get("cidr") or selector.get("matchLabels") for selector in peer.values())


def test_probes_succeed_for_any_allowed_hosts() -> None:
    (container,) = PODS["forecaster"].containers
    client = TestClient(create_app(Settings(tracking_uri="", host="0.0.0.0", allowed_hosts="forecast.example.com")))
    responses = {}
    for name in ("startup", "liveness", "readiness"):
        probe = container[f"{name}Probe"]["httpGet"]
        # the kubelet calls a pod by its address, where the probe has no header for it
        headers = {"host": "10.1.2.3:8000"} | {one["name"].lower(): one["value"] for one in probe["httpHeaders"]}
        response = client.get(probe["path"], headers=headers)
        responses[name] = (response.status_code, response.json()["status"])
    assert responses == {"startup": (200, "live"), "liveness": (200, "live"), "readiness": (503, "not ready")}


def test_the_images_are_those_of_the_compose_file() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    built = dict(re.findall(r"image: (?:&\w+ )?(forecaster-[\w-]+):\$\{FORECASTER_VERSION:-([\d.]+)\}", compose))
    assert {one["name"]: one["newTag"] for one in KUSTOMIZATION["images"]} == built
    # tags are the kustomization's
    assert {container["image"] for _, container in CONTAINERS} == built.keys()


def test_only_the_autoscaler_sets_the_replicas() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    deployment = named(target["kind"], target["name"])
    assert (target["apiVersion"], "replicas" in deployment["spec"]) == (deployment["apiVersion"], False)
    # the budget lets one of them go
    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["resource"]["name"] in PODS["forecaster"].containers[0]["resources"]["requests"]


def test_volume_claims_exist_and_shared_ones_are_read_write_many() -> None:
    users: dict[str, set[str]] = {}
    for pod in PODS.values():
        for volume in pod.volumes.values():
            if "persistentVolumeClaim" in volume:
                users.setdefault(volume["persistentVolumeClaim"]["claimName"], set()).add(pod.owner)
    claims = {one["metadata"]["name"]: one["spec"]["accessModes"] for one in of_kind("PersistentVolumeClaim")}
    assert users.keys() == claims.keys()
    for name, owners in users.items():
        assert claims[name] == (["ReadWriteMany"] if len(owners) > 1 else ["ReadWriteOnce"]), name
    (container,) = PODS["forecaster"].containers
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/app/mlruns/bars"]["readOnly"] is True
    # each replica has a cache of its own
    assert "emptyDir" in PODS["forecaster"].volumes[mounts["/app/mlruns/cache"]["name"]]
