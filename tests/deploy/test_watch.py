"""Prometheus and Grafana: their queries use metrics that exist, and the docs have a row for each alert."""

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
QUERIES = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def _labels() -> dict[str, set[str]]:
    """Return the labels of each metric of the service and the scheduler."""
    found = {}
    for one in [*vars(Metrics()).values(), *vars(ScheduleMetrics([])).values()]:
        for family in one.describe() if hasattr(one, "describe") else ():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            for suffix in suffixes:
                found[family.name + suffix] = {*one._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


@pytest.mark.parametrize("expression", QUERIES)
def test_every_queried_metric_and_label_exists(expression: str) -> None:
    known = _labels()
    queried = re.findall(r"\b(forecaster_\w+)(?:\{([^}]*)\})?", expression)
    assert queried or re.match(r"up\{|ALERTS\{", expression)
    for name, selected in queried:
        assert name in known, name
        labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selected))
        grouped = re.search(r"by \(([\w, ]+)\)", expression)
        labels |= set(grouped[1].split(", ")) if grouped else set()
        assert labels <= known[name], name


def test_panels_and_summaries_use_labels_that_exist() -> None:
    known = set().union(*_labels().values(), {"alertname", "instance"})
    texts = [rule["annotations"]["summary"] for rule in RULES]
    texts += [target["legendFormat"] for panel in PANELS for target in panel["targets"]]
    for text in texts:
        assert set(re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", text)) <= {(one, "") for one in known} | {
            ("", one) for one in known
        }, text


def test_the_docs_have_a_row_for_each_alert() -> None:
    section = (ROOT / "docs" / "operations" / "monitoring.md").read_text().split("## Alerts\n")[1].split("\n#")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}


def test_prometheus_and_grafana_are_connected() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    scrape, scheduler = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["service:8000"]}]
    # The service allows that name, and the tokens are mounted at these paths.
    assert "service" in SERVICES["service"]["environment"]["FORECASTER_ALLOWED_HOSTS"]
    files = [f"/run/secrets/{secret}" for secret in SERVICES["prometheus"]["secrets"]]
    assert [one["authorization"]["credentials_file"] for one in (scrape, scheduler)] == files
    assert scheduler["static_configs"] == [{"targets": ["scheduler:9109"]}]
    assert "metrics.host=0.0.0.0 metrics.port=9109" in SERVICES["scheduler"]["command"]
    assert SERVICES["scheduler"]["environment"]["FORECASTER_METRICS_TOKEN_FILE"] == files[1]
    # Without it Prometheus renames the schedule's label to exported_job.
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
def test_promtool_accepts_the_files(words: tuple[str | Path, ...]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
