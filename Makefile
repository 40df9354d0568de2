# Every target first installs what it needs into .venv. PYTHON is the interpreter that .venv is made with, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

# Of the lowest grpcio supported: generated code requires a grpcio no older than the tools that generated it.
GRPC_TOOLS := grpcio-tools==1.74.0 mypy-protobuf==3.6.0
PROTO := proto/sidecar/v1/rerank.proto

.PHONY: demo test engines lint format proto bench bench-gpu bench-docs soak overhead lock clean

demo: .venv/ready  ## show both orders of real queries side by side; QUERY="..." for your own
	@$(BIN)/python -m sidecar.demo $(if $(QUERY),--query "$(QUERY)")

test: .venv/ready  ## run all tests except those that need a search engine; with ENGINES, ES_URL or OS_URL set, those too
	$(BIN)/python -m pytest --benchmark-disable $(if $(ENGINES)$(ES_URL)$(OS_URL),,--ignore=tests/engines)

engines: .venv/ready  ## run the tests that need a search engine, on real nodes: docs/engines.md
	$(BIN)/python -m pytest tests/engines

lint: .venv/ready .venv-proto/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf .venv-proto/generated
	$(call generate,.venv-proto/generated)
	diff -r --exclude=__pycache__ .venv-proto/generated/sidecar/v1 sidecar/v1

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: .venv-proto/ready  ## generate sidecar/v1 from the contract
	$(call generate,.)

# The first run installs infinity, to compare with, into build/infinity, which takes minutes and a network. INFINITY_PYTHON,
# an interpreter that has infinity-emb, skips that; without either, the table says that infinity is missing.
bench: .venv/ready  ## measure speed on this machine, 16 to 19 minutes; results in build/bench
	$(BIN)/python -m tests.bench

# Installs nothing: infinity is in the table if build/infinity or INFINITY_PYTHON exists already.
bench-gpu: .venv/ready  ## the same on a machine with a GPU, in under 8 minutes
	$(BIN)/python -m tests.bench --gpu

soak: .venv/ready  ## measure memory over 100,000 calls, about ten minutes on two cores
	$(BIN)/python -m tests.bench.soak

bench-docs: .venv/ready  ## update docs/benchmarks.md and its pictures from build/bench
	$(BIN)/python -m tests.bench.document

overhead: .venv/ready  ## measure the time added to a search that is not reranked, on a real node
	$(BIN)/python -m tests.bench.overhead

lock: .venv/ready  ## pin the installed packages
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf .venv .venv-proto build *.egg-info sidecar/scoring/_native*.so

.venv/ready: pyproject.toml requirements.lock $(wildcard sidecar/scoring/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	touch $@

.venv-proto/ready: Makefile
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check $(GRPC_TOOLS)
	touch $@

define generate
mkdir -p $(1)
PATH="$(CURDIR)/.venv-proto/bin:$$PATH" .venv-proto/bin/python -m grpc_tools.protoc -Iproto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTO)
endef
