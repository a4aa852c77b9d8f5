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

# The bundled digits network, end to end: compile with passes, gate on held-out accuracy, verify, time beside onnxruntime, inject bit flips.
demo: $(VENV)/.stamp
	$(BIN)/effc compile examples/digits.onnx --passes "eliminate-dead,fold-constants,fold-batch-norm,ranger" \
	    --data examples/digits_calibration.npz --eval examples/digits_test.npz --max-drop 0.01 -o out/digits --explain
	$(BIN)/effc verify out/digits --source examples/digits.onnx --data examples/digits_test.npz
	$(BIN)/effc bench out/digits --against onnxruntime --model examples/digits.onnx
	$(BIN)/effc faultsim out/digits --eval examples/digits_test.npz -o out/digits-faults --rate 1e-6 --rate 1e-5 --rate 1e-4 \
	    --require "accuracy@1e-6 >= 0.9"
	@echo "reports: $(CURDIR)/out/digits-faults/report.html and"
	@echo "report: $(CURDIR)/out/digits/report.html"

test: $(VENV)/.stamp
	$(BIN)/python -m pytest -m "not slow" -q -n 2 --dist loadfile

# The cross linker too, so that code for other machines is tested wherever an emulator (qemu-user) is installed.
test-all: $(VENV)/.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[cross]"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Full runs; they write the README's results table. One script: $(BIN)/python -m benchmarks.latency --quick
bench: $(VENV)/.stamp
	$(BIN)/python -m benchmarks.results

clean:
	rm -rf $(VENV) out
