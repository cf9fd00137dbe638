# make demo   set up, then run the main job: train, export, calibrate, int8, validate, benchmark, report
# make test   set up, then lint, type-check and run the tests
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ROOMS  := calib cli compress core data export models ops pipeline runtime train validate
JOBS   ?= 2

.PHONY: help setup demo test test-all lint types bench wheel clean

help:
	@sed -n '1,2s/^# //p' Makefile; echo 'make test-all  every test, the slow ones too'; echo 'make bench     measure the ratios of benchmarks/'; \
	echo 'make wheel     build dist/*.whl and try it in an empty environment'

setup: $(STAMP)

# torch first and by itself: a resolver that meets it among other packages may take a CUDA build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train,openvino,dev]'
	touch $@

demo: setup
	$(BIN)/segc run configs/recipes/quickstart.yaml --work-dir demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# configs/ is read by mmengine, which gives names that no type checker sees. mypy does not follow the editable install's import hook: it sees the package through a link named segc.
types: setup
	mkdir -p build/types && ln -sfn ../.. build/types/segc
	MYPYPATH=build/types $(BIN)/mypy $(ROOMS:%=-p segc.%)

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-all: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench: setup
	$(BIN)/python -m benchmarks.run

wheel: setup
	rm -rf dist && $(BIN)/python -m build --wheel -q
	tests/wheel/try_wheel.sh $(PYTHON) $(BIN)/python

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
