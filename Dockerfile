# leantune with the CPU build of torch, as a user without rights:
#   docker build -t leantune .
#   docker run --rm -v "$PWD:/work" leantune train --data train.csv --model ./encoder --max-trainable-params 100k
#   docker run --rm -p 8000:8000 -v "$PWD/runs:/runs:ro" leantune serve /runs/mine --host 0.0.0.0
FROM python:3.12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y gcc g++ make && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python -m venv /opt/leantune \
    && /opt/leantune/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "/source[serve,xlsx]"

FROM python:3.12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 leantune
COPY --from=build /opt/leantune /opt/leantune
ENV PATH=/opt/leantune/bin:$PATH
USER 1000
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["leantune"]
CMD ["--help"]
