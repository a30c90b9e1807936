# Every target makes the environment it needs: .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test slow lint check bench evidence clean

demo: $(VENV)/.core  ## fit anchors to the samples inside the package and draw the pages
	$(BIN)/detect demo

test: $(VENV)/.test  ## unit tests, property tests and doctests
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.test  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev  ## format, lint, types, import layers
	tools/check --no-tests

check: $(VENV)/.dev  ## lint and test
	tools/check

bench: $(VENV)/.test  ## side by side with other packages; takes a quarter of an hour
	$(INSTALL) tqdm
	$(INSTALL) --no-deps yolov5 mmpose==1.3.2 mmdet==3.3.0 paddledet==2.6.0
	$(BIN)/python tools/bench.py anchors -o docs/benchmarks.md
	$(BIN)/python tools/bench.py heads -o docs/benchmarks_heads.md
	$(BIN)/python tools/bench.py heatmaps -o docs/benchmarks_heatmaps.md

evidence: $(VENV)/.test  ## what anchors, levels and targets are worth in trained detectors; hours; BCCD=FOLDER for its images
	$(BIN)/python tools/evidence.py $(if $(BCCD),--bccd $(BCCD))

clean:  ## all that is made again by itself; not runs/, where trained detectors are
	rm -rf $(VENV) detect-demo bench-data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	touch $@
