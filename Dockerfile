# The vLLM image with the sidecar in front: one container, one port.
#   docker build -t vllm-sidecar .
#   docker build -t vllm-sidecar --build-arg VLLM_VERSION=v0.32.0-cu129 .   (older drivers)
ARG VLLM_IMAGE=vllm/vllm-openai
ARG VLLM_VERSION=v0.32.0
FROM ${VLLM_IMAGE}:${VLLM_VERSION}

# PID 1 must forward SIGTERM and reap the engine's orphans, and the base image has no init.
# This small package is the only thing installed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# Nothing Python is installed: the sidecar runs on what vLLM brings. A base image that
# lacks something fails here, not in front of a user.
COPY requirements.txt proxy/check_base.py ./
RUN python3 check_base.py requirements.txt && rm check_base.py

# Both caches on one volume, writable for group 0, so `--user 2000:0` works. There is no
# VOLUME line: it would leave an anonymous copy of every model behind.
ENV HF_HOME=/workspace/huggingface \
    VLLM_CACHE_ROOT=/workspace/vllm \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN install -d -m 2775 -g 0 /workspace /workspace/huggingface /workspace/vllm

COPY LICENSE ./
COPY scripts/ ./scripts/
COPY proxy/ ./proxy/
# A checkout of somebody whose umask is 077 brings files that only root may read.
RUN python3 -m compileall -q proxy && chmod -R a+rX . && chmod 0755 scripts/start.sh

EXPOSE 8000

# Liveness, not readiness: a container that is still loading 16 GB must not be shot for it.
# docker-compose.yml asks for readiness instead. Quotes that `--env-file` leaves are no part of a port.
HEALTHCHECK --interval=30s --timeout=6s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "-c", "import http.client, os, sys; port = os.environ.get('PORT') or os.environ.get('SERVICE_PORT') or '8000'; c = http.client.HTTPConnection('127.0.0.1', int(''.join(filter(str.isdigit, port))), timeout=5); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]

# -s: reap also where the platform's own init is PID 1. No -g: SIGTERM to the whole group
# would kill the engine under the requests that are still being drained.
ENTRYPOINT ["tini", "-s", "--", "/app/scripts/start.sh"]
CMD []

# Last, so that a new version or revision rebuilds nothing above.
ARG VLLM_VERSION
ARG SIDECAR_VERSION=dev
ARG SIDECAR_REVISION=unknown
LABEL org.opencontainers.image.title="vllm-sidecar" \
      org.opencontainers.image.description="A thin sidecar in front of vLLM: truthful readiness, byte-exact streams, one log line per request" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${SIDECAR_VERSION}" \
      org.opencontainers.image.revision="${SIDECAR_REVISION}" \
      org.opencontainers.image.base.name="docker.io/vllm/vllm-openai:${VLLM_VERSION}"
