# Every target sets itself up in .venv; a stamp makes the second time quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A user may name torch's CPU index: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.PHONY: demo test test-all lint bench clean

$(VENV)/.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.13,<2.14" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

test: $(VENV)/.stamp
	$(BIN)/python -m pytest -m "not slow" -q

test-all: $(VENV)/.stamp
	$(BIN)/python -m pytest -q

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
