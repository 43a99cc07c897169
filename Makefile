# make book | test | audit | compare | portable | expected | figures | notebooks | serve | lint | bench; see README.md. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
PROFILE ?= smoke
DEVICE ?= auto
NOTEBOOK ?=
JOBS ?= 1
RUNS ?= 0
PORT ?= 8000

SHELL := /bin/bash
export PYTHONPATH := $(CURDIR)
export TQDM_DISABLE := 1
export PYTHONUTF8 := 1
# Snakemake, IPython and matplotlib keep files at home.
ifeq ($(shell test -n "$$HOME" && mkdir -p "$$HOME/.cache" 2>/dev/null && test -w "$$HOME/.cache" && echo yes),)
export HOME := $(CURDIR)/.cache
endif
BIN := .venv/bin
READY := .venv/.ready

# Metadata of one machine and one run, kept out of the committed notebooks.
STRIP := $(BIN)/nbstripout --keep-output --keep-count --extra-keys \
  "metadata.papermill metadata.language_info.version cell.metadata.papermill cell.metadata.execution"

# One at a time in this folder: who comes second waits, and then finds the work done. The lock is the system's, on a handle that
# the command inherits, so it goes with its holder, however that ends.
WAIT := import fcntl\ntry: fcntl.flock(9, 6)\nexcept BlockingIOError: print("waiting for another make in this folder", flush=True); fcntl.flock(9, 2)\nexcept OSError: pass
ALONE = test -w . || { echo "cannot write to $(CURDIR): copy the project to a folder of your own" >&2; exit 1; }; \
  { exec 9>>Makefile; } 2>/dev/null || exec 9<Makefile; $(PYTHON) -c $$'$(WAIT)';

.PHONY: book test audit compare portable expected figures notebooks serve lint bench clean

book: $(READY)
	@$(MAKE) --no-print-directory figures PROFILE=smoke 'DEVICE=$(DEVICE)' 'JOBS=$(JOBS)'
	@$(MAKE) --no-print-directory $(HTML)
	@echo $(CURDIR)/$(HTML)

# A second `make book` finds everything that the book shows as it was, and is done. File times would not tell: a clock may be set
# back, and a file that is gone has none.
HTML := _build/html/index.html
SHOWN = $$(find book notebooks results seplib _config.yml CHANGELOG.md -type f -not -path '*/__pycache__/*' -not -path '*/.*' \
  -print0 | LC_ALL=C sort -z | xargs -0 cksum | cksum)
.PHONY: $(HTML)
$(HTML):
	@$(ALONE) [ -f $(HTML) ] && [ "$(SHOWN)" = "$$(cat _build/shown 2>/dev/null)" ] || { \
	  rm -f _build/shown && shown="$(SHOWN)" && $(BIN)/python book/build.py >/dev/null && echo "$$shown" >_build/shown; }

figures: $(READY)
	@$(ALONE) $(BIN)/snakemake --cores all --nolock --rerun-incomplete --rerun-triggers mtime params code input \
	  --quiet rules host --config 'profile=$(PROFILE)' 'device=$(DEVICE)' 'notebook=$(NOTEBOOK)' 'jobs=$(JOBS)'

# Execute the committed notebooks anew, in place: after a change, before a commit.
notebooks: $(READY)
	@$(ALONE) $(BIN)/jupyter execute --inplace notebooks/$(or $(NOTEBOOK),*).ipynb
	@$(STRIP) notebooks/*.ipynb

# Everything after the training, from the stored runs, against what is committed; RUNS=n also computes n runs anew.
audit: $(READY)
	@$(BIN)/python -m seplib audit --jobs $(shell nproc 2>/dev/null || echo 2) --runs $(RUNS)

NBVAL := $(BIN)/python -m pytest -q -p no:cacheprovider --nbval --nbval-current-env --nbval-cell-timeout 300 \
  --nbval-sanitize-with tests/sanitize.cfg notebooks

test: book lint audit
	@$(BIN)/python -m pytest -q
	@$(BIN)/python -m pytest -q -n 2 -o addopts= tests/gpu
	@$(NBVAL)

# The notebooks alone: every number and text against what is expected.
compare: $(READY)
	@$(MAKE) --no-print-directory figures PROFILE=smoke DEVICE=$(DEVICE) JOBS=$(JOBS)
	@$(BIN)/python -m pytest -q tests/test_smoke.py
	@$(NBVAL)

# The same under other instruction sets and numbers of threads.
portable: $(READY)
	@$(BIN)/python tests/portable.py $(NOTEBOOK)

# Expect from now on what the notebooks show now: after a change of results, before a commit.
expected: $(READY)
	@$(MAKE) --no-print-directory figures PROFILE=smoke DEVICE=$(DEVICE) JOBS=$(JOBS)
	@$(BIN)/python -c 'from pathlib import Path; from seplib.reproduce import comparing; \
	  comparing.distil(Path("results/smoke"), Path("tests/expected/smoke"))'

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(STRIP) --verify notebooks/*.ipynb

bench: $(READY)
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

serve: book
	@$(BIN)/python -m http.server $(PORT) --directory _build/html

clean:
	rm -rf _build .snakemake results/smoke

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	@echo "setting up .venv (2 to 3 minutes the first time)"
	@$(ALONE) { [ $(READY) -nt requirements.lock ] && [ $(READY) -nt pyproject.toml ]; } || { \
	  { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv; } && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . && touch $(READY); }
