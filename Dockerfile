# Three images: `serve` (without TensorFlow), `train` and `train-gpu`. Every package is a wheel that is checked by its hash.
# docs/operations/compose.md, "Images", says how to renew the digest. A mirror of the same image: --build-arg BASE=…
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# Build stages: pip and its caches stay here.
FROM ${BASE} AS serve-packages
COPY deploy/requirements-serve.lock /build/requirements.lock
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --only-binary :all: --require-hashes \
    -r /build/requirements.lock
# The dashboard needs one file of plotly. The service needs ONNX Runtime's Python module, not its C library or its tools.
# Packages' tests are not run here.
RUN find /opt/venv/lib -path '*/plotly/*' ! -type d ! -name plotly.min.js ! -path '*/plotly/__init__.py' -delete \
 && find /opt/venv/lib -path '*/onnxruntime/*' -type d \( -name transformers -o -name tools -o -name quantization \) \
    -prune -exec rm -r {} + \
 && find /opt/venv/lib -name 'libonnxruntime.so*' -delete \
 && find /opt/venv/lib -type d -name tests -prune -exec rm -r {} +

FROM ${BASE} AS train-packages
COPY deploy/requirements-train.lock /build/requirements.lock
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r /build/requirements.lock

FROM ${BASE} AS gpu-packages
COPY deploy/requirements-gpu.lock /build/requirements.lock
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r /build/requirements.lock

FROM ${BASE} AS application
# The root file system is read-only: libraries write their caches to /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    TF_CPP_MIN_LOG_LEVEL=2
# A new volume inherits the owner of the folder that it is mounted on.
RUN groupadd --gid 10001 forecaster \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin forecaster \
 && install --directory --owner=10001 --group=10001 /app/mlruns /app/mlruns/cache /app/mlruns/bars /var/lib/mlflow
WORKDIR /app
COPY forecaster forecaster
COPY service service
COPY pipelines pipelines
COPY deploy/entrypoint.sh deploy/healthy.py deploy/
COPY deploy/mlflow deploy/mlflow
# COPY keeps the modes of the checkout. Under a strict umask the image's account could not read the files.
RUN chmod -R a+rX . \
 && python -m compileall -q forecaster service pipelines
USER 10001:10001
ENTRYPOINT ["/app/deploy/entrypoint.sh"]

FROM application AS train
COPY --from=train-packages /opt/venv /opt/venv
HEALTHCHECK NONE
CMD ["python", "-m", "pipelines.schedule", "pipelines/configs/schedule.yaml"]

FROM application AS train-gpu
COPY --from=gpu-packages /opt/venv /opt/venv
HEALTHCHECK NONE
CMD ["python", "-m", "pipelines.schedule", "pipelines/configs/schedule.yaml"]

# The last stage is what `docker build .` builds.
FROM application AS serve
COPY --from=serve-packages /opt/venv /opt/venv
# Write bytecode for the modules that are imported only: a third of the size of all bytecode.
USER 0:0
RUN env -u PYTHONDONTWRITEBYTECODE python -c "import service.__main__, forecaster.registry.sync, pipelines.keys, pipelines.migrate, \
  alembic.command, mlflow.artifacts, mlflow.tracking, sqlalchemy.dialects.postgresql.pg8000"
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "/app/deploy/healthy.py", "http://127.0.0.1:8000/health/live"]
CMD ["python", "-m", "service"]
