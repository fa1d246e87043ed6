# Caisson in an image: two stages, no compiler, no pip and no client in the result, and a user who is not root.
# BASE is any image with Python 3.11 or newer, its venv module and useradd.
ARG BASE=python:3.11-slim

FROM $BASE AS build
WORKDIR /src
# Where a build reaches no package index, a folder `wheelhouse` beside this file takes its place; CONTRIBUTING.md says
# how to fill it. The brackets make it optional.
COPY requirements.lock wheelhous[e] /src/wheelhouse/
RUN python3 -m venv /tools \
    && if ls wheelhouse/*.whl >/dev/null 2>&1; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/src/wheelhouse; fi \
    && /tools/bin/pip wheel --quiet --require-hashes --requirement wheelhouse/requirements.lock --wheel-dir /wheels \
    && /tools/bin/pip install --quiet --no-index --find-links /wheels hatchling
COPY pyproject.toml /src/
COPY app /src/app
COPY alembic /src/alembic
# Only what the service needs is taken from the locked wheels: the command-line clients stay behind.
RUN /tools/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && python3 -m venv --without-pip /opt/caisson \
    && /tools/bin/pip --python /opt/caisson/bin/python install --quiet --no-index --find-links /wheels 'caisson[postgres]'

FROM $BASE
RUN useradd --uid 9517 --user-group --create-home --home-dir /var/lib/caisson --shell /usr/sbin/nologin caisson \
    && chmod 700 /var/lib/caisson
COPY --from=build /opt/caisson /opt/caisson
ENV PATH=/opt/caisson/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CAISSON_HOST=0.0.0.0 \
    CAISSON_DATA_DIR=/var/lib/caisson
USER caisson
WORKDIR /var/lib/caisson
VOLUME /var/lib/caisson
EXPOSE 9517
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "import os, urllib.request; \
urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"CAISSON_PORT\", 9517)}/healthcheck', timeout=4)"]
ENTRYPOINT ["caisson"]
CMD ["serve"]
