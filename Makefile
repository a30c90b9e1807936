# Every target makes the environment it needs: .venv, with the versions of constraints.txt; compat has one of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
COMPAT := .venv-compat
COMPAT_TESTS := tests/detectors tests/heads tests/interop tests/losses tests/loading tests/ops tests/training \
  tests/test_examples.py tests/test_readme.py

.PHONY: demo test test-offline slow fuzz chaos lint check compat bench gpu evidence clean

demo: $(VENV)/.core  ## fit anchors to the samples inside the package and draw the pages
	$(BIN)/detect demo

test: $(VENV)/.test  ## unit tests, property tests and doctests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

test-offline: $(VENV)/.test  ## the same without a network; any attempt to reach another machine is listed, and fails
	$(BIN)/python tools/offline.py -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

chaos: $(VENV)/.test  ## kills, interrupts and starves every command that writes; root adds full and read-only disks
	OMP_NUM_THREADS=1 $(BIN)/python tools/chaos.py

slow: $(VENV)/.test  ## the tests that take minutes, and property tests with ten times the examples
	$(BIN)/python -m pytest -m 'slow or hypothesis' --hypothesis-profile thorough

lint: $(VENV)/.dev  ## format, lint, types, import layers
	tools/check --no-tests

check: $(VENV)/.dev  ## lint and test
	tools/check

fuzz: $(VENV)/.test  ## damaged input for readers and commands: ten minutes; what fails is kept in fuzz-findings
	-$(INSTALL) --only-binary :all: atheris
	$(BIN)/python tools/fuzz.py --executions 300000 --seed 0 --jobs 2

compat: $(COMPAT)/.test  ## tests of what needs torch and torchvision, with a newer pair; its environment takes 6 GB
	$(COMPAT)/bin/python -c "from detect.ops.torchvision_import import import_torchvision; import_torchvision().extension._assert_has_ops()"
	$(COMPAT)/bin/python -m pytest $(COMPAT_TESTS)

bench: $(VENV)/.test  ## side by side with other packages; takes a quarter of an hour
	$(INSTALL) tqdm
	$(INSTALL) --no-deps yolov5 mmpose==1.3.2 mmdet==3.3.0 paddledet==2.6.0
	$(BIN)/python tools/bench.py anchors -o docs/benchmarks.md
	$(BIN)/python tools/bench.py heads -o docs/benchmarks_heads.md
	$(BIN)/python tools/bench.py heatmaps -o docs/benchmarks_heatmaps.md

gpu: $(VENV)/.test  ## the tests and the benchmarks that need a GPU
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python tools/bench.py gpu -o docs/benchmarks_gpu.md

evidence: $(VENV)/.test  ## what anchors, levels and targets are worth in trained detectors; hours; BCCD=FOLDER for its images
	$(BIN)/python tools/evidence.py $(if $(BCCD),--bccd $(BCCD))

clean:  ## all that is made again by itself; not runs/, where trained detectors are
	rm -rf $(VENV) $(COMPAT) detect-demo bench-data fuzz-findings .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

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

$(COMPAT)/.test: pyproject.toml constraints-compat.txt
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --constraint constraints-compat.txt --editable '.[test]'
	touch $@
