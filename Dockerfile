# One image for every service of docker-compose.yml that runs our code; the command says which.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

WORKDIR /app
# A named volume takes the owner of the directory it is first mounted on.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin eta && mkdir -p /data /mlflow && chown eta:eta /app /data /mlflow
USER eta

# The dependencies are a layer of their own: they change seldom and weigh most.
# CA_BUNDLE: a file below this directory (build/ is ignored by git) with the certificates of a company's proxy; its
# default is some file without any.
ARG CA_BUNDLE=pyproject.toml
COPY --chown=eta ${CA_BUNDLE} /tmp/ca-bundle
COPY --chown=eta pyproject.toml requirements.lock requirements-bootstrap.txt ./
COPY --chown=eta scripts/setup scripts/
RUN if grep -q 'BEGIN CERTIFICATE' /tmp/ca-bundle; then export SSL_CERT_FILE=/tmp/ca-bundle; fi; \
    scripts/setup dependencies && rm -rf ~/.cache

COPY --chown=eta . .
RUN scripts/setup

# No git in the image: the revision for the lineage of models comes from outside.
ARG CODE_REVISION=unknown
ENV PATH=/app/.venv/bin:$PATH \
    ETA_CODE_REVISION=${CODE_REVISION} \
    ETA_DATA_DIR=/data \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    FEAST_USAGE=False \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true
CMD ["python", "-m", "serving"]
