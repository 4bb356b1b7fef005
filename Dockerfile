# One image for all: web (the default), worker (`holdfast worker`) and migrations
# (`holdfast migrate`). Settings come from the environment, none is in the image. See docs/deploy.md.
FROM python:3.13-slim AS build
WORKDIR /app
RUN python -m venv .venv
COPY requirements.txt ./
RUN .venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements.txt
COPY . .
# docker build --build-arg SOURCE_VERSION="$(git rev-parse HEAD)" . makes `holdfast --version` tell the commit.
ARG SOURCE_VERSION
RUN .venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
# Kubernetes can only tell by a number that a user is not root. /data is for STORAGE_URL=file:///data/objects.
RUN useradd --system --uid 10001 --no-create-home holdfast && install --directory --owner=10001 /data
WORKDIR /app
COPY --from=build /app/.venv .venv
ENV PATH=/app/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
# A worker needs another one: `holdfast alive worker`.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["holdfast", "alive", "web"]
CMD ["python", "-m", "service", "web"]
