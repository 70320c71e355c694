# The images of the API and of the worker:
#
#     docker build --target api    -t robustreps-api    .
#     docker build --target worker -t robustreps-worker .
#
# Both begin with plain Debian. The worker needs no CUDA image: torch's wheels bring CUDA's libraries, and the driver is
# the host's, which the NVIDIA container runtime mounts. Debian is pinned by its point release, Python packages by
# requirements.lock. A digest would pin the base to the byte: add one where your registry is, as
# --build-arg BASE=debian@sha256:...
ARG BASE=debian:13.8-slim

FROM ${BASE} AS base
# Not pinned by version: Debian removes a package's old version when a security fix replaces it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 robustreps \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/robustreps --create-home --shell /usr/sbin/nologin robustreps
ENV PATH=/opt/robustreps/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/robustreps \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ROBUSTREPS_DATA_DIR=/var/lib/robustreps \
    ROBUSTREPS_LOG_FORMAT=json


FROM base AS tools
ARG UV=0.13.9
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir uv==${UV}
ENV PATH=/uv/bin:/usr/local/bin:/usr/bin:/bin UV_CACHE_DIR=/cache UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
# What is installed changes seldom, the code often: each has a layer, also in the images. The lock says which versions,
# pyproject.toml which packages, so that an image has only what it needs.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/cache \
    uv venv /opt/robustreps \
    && uv pip install --python /opt/robustreps/bin/python --constraint requirements.lock -r pyproject.toml


# The code, once for both images.
FROM tools AS code
COPY README.md LICENSE ./
COPY migrations ./migrations
COPY service ./service
COPY workers ./workers
RUN --mount=type=cache,target=/cache \
    uv pip install --python /opt/robustreps/bin/python --build-constraint requirements.lock --no-deps --prefix /code .


FROM tools AS worker-packages
RUN --mount=type=cache,target=/cache \
    uv pip install --python /opt/robustreps/bin/python --constraint requirements.lock -r pyproject.toml --extra worker


# The dashboard, the API, the reconciler, the planner and the sender of webhooks; `migrate` and the like, too. No torch.
FROM base AS api
COPY --from=tools /opt/robustreps /opt/robustreps
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="robustreps-api" \
      org.opencontainers.image.description="The API and dashboard of robustreps" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=code /code /opt/robustreps
ENV ROBUSTREPS_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/robustreps
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s CMD ["robustreps", "health"]
# tini passes signals on and reaps what a killed process leaves behind.
ENTRYPOINT ["/usr/bin/tini", "--", "robustreps"]
CMD ["serve"]


# What computes. On SIGTERM it stores where its searches stand and lets go, within ROBUSTREPS_DRAIN_SECONDS.
FROM base AS worker
# Triton compiles how a kernel is launched, on the GPU's machine.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/robustreps /opt/robustreps
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="robustreps-worker" \
      org.opencontainers.image.description="The GPU worker of robustreps" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=code /code /opt/robustreps
ENV ROBUSTREPS_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/robustreps
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD ["robustreps", "health", "--worker"]
ENTRYPOINT ["/usr/bin/tini", "--", "robustreps"]
CMD ["worker"]
