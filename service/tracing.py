"""OpenTelemetry traces: a span for each request, sent to a collector over HTTP. Requires the extra `telemetry`."""

from fastapi import FastAPI

from forecaster.domain.errors import ConfigError


def trace(app: FastAPI, endpoint: str) -> None:
    """Send a span for each request to `app` to `endpoint`, such as http://collector:4318/v1/traces.

    Raises:
        ConfigError: the extra `telemetry` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"traces_endpoint: OpenTelemetry is not installed ({error.name}); "
            "install the extra: pip install '.[telemetry]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": app.title, "service.version": app.version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls="health,metrics")
    # sends the remaining spans before the process ends
    app.state.stop_tracing = provider.shutdown
