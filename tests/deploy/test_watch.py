"""Prometheus and Grafana: they ask for figures that the service has, and each alert says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.scheduling.metrics import Metrics as ScheduleMetrics
from service.metrics import Metrics
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
(DASHBOARD,) = (DEPLOY / "grafana" / "dashboards").glob("*.json")
PANELS = json.loads(DASHBOARD.read_text())["panels"]
ASKED = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def _labels() -> dict[str, set[str]]:
    """Return the labels of each figure that the service and the scheduler tell."""
    found = {}
    for one in [*vars(Metrics()).values(), *vars(ScheduleMetrics([])).values()]:
        for family in one.describe() if hasattr(one, "describe") else ():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            for suffix in suffixes:
                found[family.name + suffix] = {*one._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


@pytest.mark.parametrize("expression", ASKED)
def test_what_is_asked_for_is_there(expression: str) -> None:
    known = _labels()
    asked = re.findall(r"\b(forecaster_\w+)(?:\{([^}]*)\})?", expression)
    assert asked or re.match(r"up\{|ALERTS\{", expression)
    for name, selected in asked:
        assert name in known, name
        labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selected))
        grouped = re.search(r"by \(([\w, ]+)\)", expression)
        labels |= set(grouped[1].split(", ")) if grouped else set()
        assert labels <= known[name], name


def test_each_panel_and_summary_names_labels_that_are_there() -> None:
    known = set().union(*_labels().values(), {"alertname", "instance"})
    texts = [rule["annotations"]["summary"] for rule in RULES]
    texts += [target["legendFormat"] for panel in PANELS for target in panel["targets"]]
    for text in texts:
        assert set(re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", text)) <= {(one, "") for one in known} | {
            ("", one) for one in known
        }, text


def test_the_docs_say_what_to_do_for_each_alert() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().split("### What to do for each alert")[1].split("\n#")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}


def test_they_find_each_other_and_the_service() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    scrape, scheduler = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["service:8000"]}]
    # the service answers to that name, and the keys are where the container has them
    assert "service" in SERVICES["service"]["environment"]["FORECASTER_ALLOWED_HOSTS"]
    files = [f"/run/secrets/{secret}" for secret in SERVICES["prometheus"]["secrets"]]
    assert [one["authorization"]["credentials_file"] for one in (scrape, scheduler)] == files
    assert scheduler["static_configs"] == [{"targets": ["scheduler:9109"]}]
    assert "metrics.host=0.0.0.0 metrics.port=9109" in SERVICES["scheduler"]["command"]
    assert SERVICES["scheduler"]["environment"]["FORECASTER_METRICS_TOKEN_FILE"] == files[1]
    # or Prometheus would call the schedule's label exported_job
    assert scheduler["honor_labels"] is True
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {source["uid"]}
    provided = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/forecaster.yaml").read_text())["providers"][0]
    assert f"./deploy/grafana/dashboards:{provided['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here (apt install prometheus)")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml"),
        ("test", "rules", ROOT / "tests/deploy/alerts.yaml"),
    ],
    ids=["config", "rules"],
)
def test_prometheus_itself_takes_them(words: tuple[str | Path, ...]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
