# The image of operator, engine, workers and command line: one virtual environment, nothing else.
# Only `python3 -m venv` is used of the base image, so any image with Python 3.13 and venv serves as one.

FROM python:3.13-slim AS dependencies
# Without the columns of tracebacks an engine takes several megabytes less.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONNODEBUGRANGES=1
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/agentos
COPY requirements.lock /src/
RUN /opt/build/bin/pip --python /opt/agentos/bin/python3 install \
        --require-hashes --only-binary :all: --no-compile -r /src/requirements.lock \
    && /opt/agentos/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/agentos/lib

# The members go to a folder of their own, which then makes a small layer over the dependencies.
FROM dependencies AS members
COPY requirements-dev.lock /src/
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        /src/requirements-dev.lock > /src/requirements-build.lock \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: --no-compile -r /src/requirements-build.lock
COPY contracts /src/contracts
COPY engine /src/engine
COPY operator /src/operator
COPY workers /src/workers
COPY cli /src/cli
RUN cd /src \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /src/wheels \
        ./contracts ./engine ./operator ./workers ./cli \
    && /opt/build/bin/pip --python /opt/agentos/bin/python3 install \
        --no-deps --no-index --no-compile --prefix /opt/members /src/wheels/*.whl \
    && /opt/agentos/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
        -s /opt/members -p /opt/agentos /opt/members/lib

FROM python:3.13-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="AgentOS on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/agentos/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNODEBUGRANGES=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
COPY --from=dependencies /opt/agentos /opt/agentos
COPY --from=members /opt/members /opt/agentos
WORKDIR /tmp
USER 65532:65532
