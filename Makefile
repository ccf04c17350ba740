# Each verb brings what it needs: on a fresh machine with Python 3.11 or later, its venv and pip, start with any of them.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
BIN := .venv/bin
KERNELS := hatch_build.py $(wildcard kernels/*)
# Without --use-pep517, an old pip lets seqeval's setup.py fetch its build tools by itself, and it misses one.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt

# Tests start hundreds of processes. Were it set, each would compile every file again.
export PYTHONDONTWRITEBYTECODE :=

PYTEST := pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: serve train test test-slow lower-bounds gpu-check lint bench peers starter clean

serve: .venv/serve
	$(BIN)/bertheads-serve --host $(HOST) --port $(PORT)

train: .venv/all
	@echo '$(BIN)/python -m training --help lists the commands'

# make test TESTS=tests/kernels runs some of them.
test: .venv/all
	$(BIN)/$(PYTEST) -m 'not slow' $(TESTS)

# Those that take long: torchrun, kills in many rounds, whole benchmarks, clients in environments of their own.
test-slow: .venv/all
	$(BIN)/$(PYTEST) -m slow $(TESTS)

# With the oldest packages that pyproject.toml allows, whose warnings are no errors: they did not know what came later.
lower-bounds: .venv/lower/all
	.venv/lower/bin/$(PYTEST) -W default -m 'not slow' tests/models tests/service tests/training

# The CUDA provider of ONNX Runtime on stand-ins for CUDA; needs no GPU.
gpu-check: .venv/all .venv/gpu/all
	$(BIN)/pytest -n 2 --dist loadfile tests/standins tests/gpu

lint: .venv/all
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

bench: .venv/all
	$(BIN)/python -m tests.benchmarks

# Whom the benchmark compares with and who cannot share our environment; without them it says that they are skipped.
peers: .venv/all
	$(PYTHON) -m venv .venv/peers/infinity
	.venv/peers/infinity/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	.venv/peers/infinity/bin/python -m pip install --quiet 'infinity-emb[server,torch,optimum,logging]==0.0.78'
	$(PYTHON) -m venv .venv/peers/servers
	.venv/peers/servers/bin/python -m pip install --quiet --editable '.[cpu]' litserve==0.2.19 bentoml==1.4.40

starter: .venv/all
	@test -e "$(DATA)" -a -e "$(BASE)" || { echo 'usage: make starter DATA=directory of the data sets BASE=base encoder directory'; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" training/recipes/starter.sh "$(DATA)" "$(BASE)"

clean:
	rm -rf .venv dist models/kernels.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all: what serving needs, and, from the first training or test on, every extra except gpu. No torch until then.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml constraints.txt $(KERNELS) | .venv/bin/python
	$(INSTALL) --editable '.[cpu]'
	touch $@

# What serving needs, with onnxruntime-gpu, which never shares an environment with onnxruntime; without CUDA itself.
.venv/gpu/all: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv/gpu
	.venv/gpu/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt \
		--editable . onnxruntime-gpu
	touch $@

# torch, transformers (the reference, which needs its own huggingface_hub) and what runs the tests are the tested versions.
# Other tools for development are as new as the rest allows.
.venv/lower/all: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv/lower
	grep -E '^(torch|transformers|pytest|pytest-xdist|hypothesis|schemathesis)==' constraints.txt > .venv/lower/constraints.txt
	sed -nE '/^dev = /q; /"torch>=/d; s/^ *"([A-Za-z0-9_.-]+)(\[[a-z]+\])?>=([0-9.]+).*/\1==\3/p' pyproject.toml \
		>> .venv/lower/constraints.txt
	.venv/lower/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	.venv/lower/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
		--constraint .venv/lower/constraints.txt --editable '.[cpu,train,batch,otel,dev]'
	touch $@

# torch on its own first: an index or folder with another build of this version, for CPU or some CUDA, then decides
# which build it is, and nothing after it asks again.
.venv/all: pyproject.toml constraints.txt $(KERNELS) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(INSTALL) --editable '.[cpu,train,batch,otel,dev]'
	touch .venv/serve $@
