# Needs Python 3.11 to 3.13, pip and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt
OUT ?= runs

.PHONY: setup demo test check bench clean

setup: $(VENV)/.ready

# DeepSpeed comes as source and imports torch while it is built: it is installed second, in the finished environment.
# Compiled here, once, everything starts two to three times faster where Python may not write what it compiles;
# compileall fails for the few files of packages that are for newer Pythons.
$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	@echo "setting up $(VENV) (about 7 GB; one to three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8,<1"
	@$(UV) -e ".[dev]" setuptools wheel py-cpuinfo ninja
	@DS_BUILD_OPS=0 $(UV) --no-build-isolation-package deepspeed -e ".[dev,deepspeed]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: setup
	@$(BIN)/harness bench demo --out $(OUT)

test: setup
	@$(BIN)/python -m pytest

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Every comparison that needs no GPU, a quarter of an hour on an idle machine; `$(BIN)/python -m benchmarks gpu` is the rest.
bench: setup
	@$(BIN)/python -m benchmarks all --json $(OUT)/benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
