# Packages are installed where pip is; the image that runs has the interpreter, .venv and the code.
ARG PYTHON_IMAGE=python:3.13.9-slim-trixie
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /opt/tidegate
COPY requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock \
    && .venv/bin/pip uninstall -y pip

FROM ${PYTHON_IMAGE}
RUN useradd --uid 1000 --no-create-home --home-dir /state --shell /usr/sbin/nologin tidegate \
    # Any user may be given with --user, so these are as open as /tmp; a volume copies the mode.
    && install -d -m 1777 /state \
    && install -d -m 0777 /site/input /site/output /site/archive /site/rejected
WORKDIR /opt/tidegate
COPY --from=packages /opt/tidegate/.venv .venv
# .dockerignore lists what the daemon runs from: nothing else gets in.
COPY . .
RUN .venv/bin/python -m compileall -q .
ENV PATH=/opt/tidegate/.venv/bin:$PATH \
    HOME=/state \
    INPUT_DIR=/site/input \
    OUTPUT_DIR=/site/output \
    ARCHIVE_DIR=/site/archive \
    REJECTED_DIR=/site/rejected \
    DATA_DIR=/state \
    LOG_FILE=/state/app.log \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER tidegate
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --start-interval=2s \
    CMD ["python", "main.py", "status", "--alive", "--json"]
CMD ["python", "main.py", "run"]
