"""Operations: metrics, log lines and traces."""

import gzip
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from forecaster.domain.errors import ConfigError
from forecaster.domain.logs import JsonFormatter
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, wait_until_ready


@contextmanager
def serving(models: TrainedModels, tmp_path: Path, traces_endpoint: str = "") -> Iterator[TestClient]:
    settings = Settings(
        cache_dir=models.cache,
        tracking_uri="",
        database_url=f"sqlite:///{tmp_path}/l.db",
        traces_endpoint=traces_endpoint,
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def test_metrics_count_requests_and_forecasts(models: TrainedModels, tmp_path: Path) -> None:
    with serving(models, tmp_path) as client:
        for _ in range(3):
            client.post("/v1/forecasts", json=forecast_request())
        client.get("/v1/models/nobody")
        # an unknown path must not become a label
        client.get("/anything/at/all")
        text = client.get("/metrics").text
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    counts = {
        tuple(sample.labels.values()): sample.value
        for sample in families["forecaster_requests"]
        if sample.name.endswith("_total")
    }
    assert counts["POST", "/v1/forecasts", "200"] == 3
    assert counts["GET", "/v1/models/{name}", "404"] == 1
    assert counts["any", "none", "404"] == 1
    assert "/anything" not in text
    (version,) = (sample for sample in families["forecaster_served_version"] if sample.labels["alias"] == "champion")
    assert (version.labels["model"], version.value) == ("sine", 1)
    age = next(
        sample.value
        for sample in families["forecaster_served_version_age_seconds"]
        if sample.labels["alias"] == "champion"
    )
    assert 0 <= age < 24 * 3600
    sizes = {sample.name: sample.value for sample in families["forecaster_batch_size"]}
    assert sizes["forecaster_batch_size_count"] == sizes["forecaster_batch_size_sum"] == 3
    written = {sample.name: sample.value for sample in families["forecaster_ledger_write_seconds"]}
    assert written["forecaster_ledger_write_seconds_count"] == 3


def test_json_log_line_has_the_request_id_and_no_secret(
    models: TrainedModels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonFormatter().format(record))

    keep = Keep()
    logging.getLogger("forecaster.service").addHandler(keep)
    with caplog.at_level("INFO"), serving(models, tmp_path) as client:
        key = {"Authorization": "Bearer fc_secret_secret"}
        client.post("/v1/forecasts", json=forecast_request(), headers={"X-Request-ID": "mine-7", **key})
    logging.getLogger("forecaster.service").removeHandler(keep)
    (line,) = [json.loads(line) for line in lines if '"/v1/forecasts"' in line]
    assert line["request_id"] == "mine-7"
    assert (line["method"], line["status"], line["level"]) == ("POST", 200, "info")
    assert line["seconds"] > 0
    assert "secret" not in "".join(lines)


def test_collector_receives_a_span_for_each_request(models: TrainedModels, tmp_path: Path) -> None:
    spans: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            sent = ExportTraceServiceRequest.FromString(plain)
            spans.extend(
                span.name for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    with serving(models, tmp_path, traces_endpoint=endpoint) as client:
        assert client.post("/v1/forecasts", json=forecast_request()).status_code == 200
        client.get("/health/live")
    server.shutdown()
    thread.join()
    server.server_close()
    assert "POST /v1/forecasts" in spans
    assert not [span for span in spans if "health" in span]


def test_traces_without_the_extra_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = Settings(cache_dir=tmp_path, tracking_uri="", traces_endpoint="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"traces_endpoint: OpenTelemetry is not installed .* install the extra"):
        create_app(settings)
