# The service with its starter bundle, on CPU or CUDA:
#   docker build -t bertheads .
#   docker build -t bertheads:cuda --build-arg PROVIDER=cuda .      # CUDA 13 from PyPI; run with --gpus all
#   docker buildx build --platform linux/amd64,linux/arm64 .        # CPU only: onnxruntime-gpu has no wheels for arm64
# For CUDA, the starter is exported in fp16 on the way: that stage takes PyTorch and some minutes, and stays behind.
# EXTRAS are further extras of pyproject.toml: otel sends traces once OTEL_* says where to; EXTRAS= leaves it out.
# tests/deploy/image.sh builds it without Docker and tests that it answers.

# ---- dependencies: a virtual environment; pip and what only builds and tests need stay behind ----
FROM docker.io/library/python:3.11-slim-bookworm AS dependencies
ARG PROVIDER=cpu
ARG EXTRAS=otel
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# Reads the requirements alone, so that this layer, by far the largest, outlives every change of the source.
RUN python -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
               extras = [{'cpu': 'cpu', 'cuda': 'gpu'}[sys.argv[1]], *sys.argv[2].split()]; \
               optional = project['optional-dependencies']; \
               print(*project['dependencies'], *(line for extra in extras for line in optional[extra]), sep='\n')" \
           "$PROVIDER" "$EXTRAS" > requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv install --no-cache-dir --no-compile --only-binary :all: \
           --report installed.json --constraint constraints.txt --requirement requirements.txt
# What the service never imports: the download client behind Tokenizer.from_pretrained and what only it needs, ONNX
# Runtime's converters and its second copy of the engine for C programs, the tests of libraries. Bytecode is compiled
# here, unchecked against its source: nobody may write in the image.
WORKDIR /opt/venv/lib/python3.11/site-packages
RUN python -m pip --python /opt/venv uninstall --yes \
        filelock fsspec hf-xet httpcore2 httpx2 huggingface-hub tqdm truststore \
    && rm -r onnxruntime/backend onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
             onnxruntime/capi/libonnxruntime.so.* \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && find . -name '*.py[ix]' -delete \
    && python -m compileall -q --invalidation-mode unchecked-hash .

# ---- the kernels ----
FROM docker.io/library/python:3.11-slim-bookworm AS kernels
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY kernels /kernels
RUN sh /kernels/build.sh /kernels.so

# ---- source ----
FROM docker.io/library/python:3.11-slim-bookworm AS source
WORKDIR /app
COPY models/*.py models/*.onnx models/
COPY service service
COPY --from=kernels /kernels.so models/
COPY pyproject.toml /
# The service finds its version where an installed package has it.
RUN mkdir bertheads.dist-info \
    && python -c "import tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
                  fields = {'Metadata-Version': '2.4', 'Name': project['name'], 'Version': project['version'], \
                            'Summary': project['description'], 'License-Expression': project['license']}; \
                  print(*(f'{name}: {value}' for name, value in fields.items()), sep='\n')" \
           > bertheads.dist-info/METADATA \
    && python -m compileall -q --invalidation-mode unchecked-hash .

# ---- the starter: GPUs have no kernels for int8 ----
FROM docker.io/library/python:3.11-slim-bookworm AS starter
ARG PROVIDER=cpu
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN if [ "$PROVIDER" = cuda ]; then \
        python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
                   optional = project['optional-dependencies']; \
                   print(*project['dependencies'], *optional['cpu'], *optional['train'], sep='\n')" > requirements.txt \
        && python -m pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt; fi
COPY models models
COPY training training
RUN if [ "$PROVIDER" = cuda ]; then python -m training export models/starter --precision fp16 --out /starter; \
    else cp -r models/starter /starter; fi

# ---- the SBOM: what the image holds, in CycloneDX ----
FROM docker.io/library/python:3.11-slim-bookworm AS sbom
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --no-cache-dir --constraint constraints.txt cyclonedx-bom
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=dependencies /build/installed.json ./
COPY --from=kernels /kernels.so ./
COPY pyproject.toml deploy/sbom.py ./
COPY --from=starter /starter/bundle.json ./
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file python.json /opt/venv \
    && /opt/tools/bin/python sbom.py > bertheads.cdx.json

# ---- the image ----
FROM docker.io/library/python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="bertheads" \
      org.opencontainers.image.description="An inference microservice for finetuned BERT heads" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
RUN python -m pip uninstall --yes --no-cache-dir pip setuptools wheel
COPY --from=dependencies /opt/venv /opt/venv
WORKDIR /app
COPY --from=starter /starter models/starter
COPY --from=source /app .
# docker run --rm --entrypoint cat bertheads /usr/share/sbom/bertheads.cdx.json
COPY --from=sbom /build/bertheads.cdx.json /usr/share/sbom/
ARG PROVIDER=cpu
# A service told to use CUDA does not fall back to the CPU in silence; NVIDIA_* is what the NVIDIA container runtime reads.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BERTHEADS_PROVIDER=${PROVIDER} \
    BERTHEADS_HOST=0.0.0.0 \
    BERTHEADS_PORT=8000
# The standard library comes without bytecode: importing the service once compiles the modules it uses, and proves that
# nothing it needs was left behind.
RUN python -c "import service.__main__, service.app, service.settings as s; service.app.create_app(s.Settings())"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"BERTHEADS_PORT\"]}/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
