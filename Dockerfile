FROM python:3.13.9-slim-trixie AS build
WORKDIR /srv
COPY requirements requirements
# More packages: --build-arg MORE="-r requirements/redis.txt -r requirements/tracing.txt"
ARG MORE=""
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements/server.txt $MORE

FROM python:3.13.9-slim-trixie
# The embedded stores, if they are used, keep their data in /data: mount a volume there.
RUN useradd --uid 10001 --create-home chat && install -d -o chat /data
WORKDIR /srv
COPY --from=build /srv/.venv .venv
COPY app app
COPY migrations migrations
RUN .venv/bin/python -m compileall -q app migrations
USER chat
# It writes to /data, with embedded stores, and to /tmp alone: the rest may be read-only.
ENV PATH=/srv/.venv/bin:$PATH HOST=0.0.0.0 PORT=8000 DATA_DIR=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=4)"]
CMD ["python", "-m", "app.serve"]
