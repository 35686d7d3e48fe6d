# `make run` and `make test` need Python 3.11 to 3.14, git and make, and install everything else.
.DEFAULT_GOAL := help
.PHONY: environment help run test coverage check fix bench gpu profile faults docker smoke n8n n8n-node clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
TESTS ?= tests
# How many files `make coverage` names.
WORST_FILES ?= 25
# The build of PyTorch: cpu, cuda, or auto (without CUDA if there is no NVIDIA driver).
TORCH ?= auto
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_OPTIONS = $$($(BIN)/python -m tools.virtual_environment torch-options $(TORCH) $(TORCH_CPU_INDEX))
DOCKER_BUILD ?= docker build

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: $(VENV)/.run ## Start the service on this machine: http://localhost:7860
	@$(BIN)/python -m compose.cli up

test: $(VENV)/.dev ## Run all tests, or TESTS=...
	@# Without bytecode, each of the thousand processes of a run would compile this package anew.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto $(TESTS)

coverage: $(VENV)/.dev ## Run all tests, or TESTS=..., and show the lines that they run: the total and the worst files
	@$(BIN)/python -m coverage erase
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m coverage run -m pytest -n auto $(TESTS); status=$$?; \
		$(BIN)/python -m coverage combine --quiet; \
		$(BIN)/python -m coverage report | awk 'NR <= $(WORST_FILES) + 2 || /^TOTAL/'; exit $$status

check: $(VENV)/.dev ## Check format, style, types, imports, dead code and spelling; changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vulture
	@$(BIN)/codespell

fix: $(VENV)/.dev ## Format, fix what can be fixed, and regenerate generated files
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m tools.env_example > .env.example
	@$(BIN)/python -m tools.configuration > docs/configuration.md
	@$(BIN)/python -m tools.errors > docs/errors.md
	@$(BIN)/python -m tools.dify_tool > compose/dify/imagegen.openapi.json

bench: $(VENV)/.bench ## Measure the performance promises; BENCH=--full is slower and more exact
	@$(BIN)/python -m bench $(BENCH)

gpu: ## Test and measure the CUDA device of this machine, in at most six minutes; without one, it says so
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m bench.gpu $(GPU); else $(PYTHON) -m bench.gpu $(GPU); fi

profile: $(VENV)/.bench ## Draw flame graphs of the API and a worker under load into profiles/
	@$(BIN)/python -m bench.profile

faults: $(VENV)/.dev ## Kill processes at random during twenty thousand jobs (five minutes)
	@$(BIN)/python -m tests.faults.soak --jobs 20000 --every 30

docker: ## Build the images imagegen-api, imagegen-worker and imagegen-worker-slim
	$(DOCKER_BUILD) -f Dockerfile.api -t imagegen-api .
	$(DOCKER_BUILD) -f Dockerfile.worker --target slim -t imagegen-worker-slim .
	$(DOCKER_BUILD) -f Dockerfile.worker -t imagegen-worker .

smoke: ## Build the images, start the stack with Compose, break it, and report
	@$(PYTHON) -m tools.docker_smoke $(SMOKE)

n8n: $(VENV)/.dev n8n-node ## Install a real n8n into .n8n (2.2 GB) and run every workflow in it; N8N=--only=restart
	@$(BIN)/python -m tests.compose.n8n.trial $(N8N)

n8n-node: ## Check and build the nodes for n8n; needs Node and npm
	@# In a copy, so that four hundred packages lie outside the code.
	@mkdir -p .n8n/node && rm -rf .n8n/node/nodes .n8n/node/credentials && cp -R compose/n8n/node/. .n8n/node
	@cd .n8n/node && npm install --ignore-scripts --legacy-peer-deps --no-audit --no-fund --loglevel=error
	@cd .n8n/node && npm run --silent lint && npm run --silent build
	@rm -rf compose/n8n/node/dist && cp -R .n8n/node/dist compose/n8n/node/dist

clean: ## Remove the environment; keep images, models and data
	rm -rf $(VENV) build *.egg-info

# The scripts of an environment contain its path, which is wrong after the folder was moved or copied.
environment:
	$(eval RELOCATED := $(if $(wildcard $(BIN)/python),$(shell $(BIN)/python -m tools.virtual_environment relocate 2>/dev/null || echo FAILED)))
	$(if $(findstring FAILED,$(RELOCATED)),$(error $(if $(filter-out FAILED,$(RELOCATED)),$(filter-out FAILED,$(RELOCATED)),The environment in $(VENV) was not created in this folder, or its Python is gone: run `make clean` and try again)))
	@$(if $(RELOCATED),echo "$(RELOCATED)",:)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python -m tools.virtual_environment switch-torch $(TORCH) $(TORCH_CPU_INDEX),:)

$(BIN)/python: | environment
	@command -v $(PYTHON) >/dev/null || { echo "There is no program $(PYTHON): name a Python 3.11 to 3.14, for example: make run PYTHON=python3"; exit 1; }
	@# PyTorch, as constraints.txt has it, is built for no newer one.
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "Python 3.11 to 3.14 is required; name it with: make run PYTHON=python3.14"; exit 1; }
	@echo "Creating the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the service; the first time takes some minutes"
	@$(PIP) --quiet $(TORCH_OPTIONS) --editable '.[up]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the service and its tests; the first time takes some minutes"
	@$(PIP) --quiet $(TORCH_OPTIONS) --editable '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing the plots of the bench"
	@$(PIP) --quiet $(TORCH_OPTIONS) --editable '.[bench]'
	@touch $@
