# Three images: `serve` (without TensorFlow), `train` and `train-gpu`. Every package is a wheel known by its hash.
ARG BASE=python:3.11.14-slim-bookworm

# what an environment is made with stays in these stages
FROM ${BASE} AS serve-packages
COPY deploy/requirements-serve.lock /build/requirements.lock
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --only-binary :all: --require-hashes \
    -r /build/requirements.lock
# of plotly the dashboard takes one file; of ONNX Runtime the service takes what runs graphs from Python, not the library
# for C programs; nobody runs the packages' tests
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

FROM ${BASE} AS house
# the root is read-only when it runs: what libraries keep for themselves goes to /tmp
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    TF_CPP_MIN_LOG_LEVEL=2
# a new volume takes over whose these folders are
RUN groupadd --gid 10001 forecaster \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin forecaster \
 && install --directory --owner=10001 --group=10001 /app/mlruns /app/mlruns/cache /app/mlruns/bars /var/lib/mlflow
WORKDIR /app
COPY forecaster forecaster
COPY service service
COPY pipelines pipelines
COPY deploy/entrypoint.sh deploy/healthy.py deploy/
COPY deploy/mlflow deploy/mlflow
# copied with the modes of the checkout, which another umask may keep from the account that they run as; bytecode takes them over
RUN chmod -R a+rX . \
 && python -m compileall -q forecaster service pipelines
USER 10001:10001
ENTRYPOINT ["/app/deploy/entrypoint.sh"]

FROM house AS train
COPY --from=train-packages /opt/venv /opt/venv
HEALTHCHECK NONE
CMD ["python", "-m", "pipelines.schedule", "pipelines/configs/schedule.yaml"]

FROM house AS train-gpu
COPY --from=gpu-packages /opt/venv /opt/venv
HEALTHCHECK NONE
CMD ["python", "-m", "pipelines.schedule", "pipelines/configs/schedule.yaml"]

# the last one is what `docker build .` makes
FROM house AS serve
COPY --from=serve-packages /opt/venv /opt/venv
# bytecode of what is imported, and of nothing else, which is a third of the size
USER 0:0
RUN env -u PYTHONDONTWRITEBYTECODE python -c "import service.__main__, forecaster.registry.sync, pipelines.keys, pipelines.migrate, \
  alembic.command, mlflow.artifacts, mlflow.tracking, sqlalchemy.dialects.postgresql.pg8000"
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "/app/deploy/healthy.py", "http://127.0.0.1:8000/health/live"]
CMD ["python", "-m", "service"]
