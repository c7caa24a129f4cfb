"""The Kubernetes manifests as data: what `kubectl apply -k deploy/kubernetes` would apply."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest for name in KUSTOMIZATION["resources"] for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
SETTINGS = dict(
    line.split("=", 1) for line in (FOLDER / "settings.env").read_text().splitlines() if not line.startswith("#")
)


@dataclass(frozen=True)
class Pod:
    """A pod template: the name of its Deployment or CronJob, its labels and its `spec`."""

    owner: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, init containers first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports that containers listen on, by name."""
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", [])}

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        """The volumes by name."""
        return {volume["name"]: volume for volume in self.spec["volumes"]}


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Return the manifests of one kind."""
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def named(kind: str, name: str) -> dict[str, Any]:
    """Return the only manifest of a kind with a name."""
    (manifest,) = [manifest for manifest in of_kind(kind) if manifest["metadata"]["name"] == name]
    return manifest


def _pods() -> Iterator[Pod]:
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            template = manifest["spec"]["template"]
        elif manifest["kind"] == "CronJob":
            template = manifest["spec"]["jobTemplate"]["spec"]["template"]
        else:
            continue
        yield Pod(manifest["metadata"]["name"], template["metadata"]["labels"], template["spec"])


PODS = {pod.owner: pod for pod in _pods()}
CONTAINERS = [(pod, container) for pod in PODS.values() for container in pod.containers]
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
each_container = pytest.mark.parametrize(
    ("pod", "container"), CONTAINERS, ids=[f"{pod.owner}/{container['name']}" for pod, container in CONTAINERS]
)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches labels; of `matchExpressions` only the operator In is supported."""
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert {one["operator"] for one in expressions} <= {"In"}
    return wanted.items() <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in expressions)


def selected(selector: Mapping[str, Any]) -> set[str]:
    """Return the owners of the pods that a selector selects."""
    return {pod.owner for pod in PODS.values() if selects(selector, pod.labels)}


def mebibytes(quantity: str) -> float:
    """Return a quantity of memory, such as `512Mi` or `2Gi`, in MiB."""
    number, unit = quantity[:-2], quantity[-2:]
    return float(number) * {"Ki": 2**-10, "Mi": 1, "Gi": 2**10}[unit]
